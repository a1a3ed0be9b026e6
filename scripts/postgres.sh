#!/usr/bin/env bash
# Starts the PostgreSQL 17 that the tests run on: with pgvector, pg_cron, pgtap, plpgsql_check and http, and with the roles of a
# Supabase project. Its data are for tests only.
#
#   npm run postgres                    start it, installing first what is missing (as root on Debian)
#   npm run postgres -- --port 5555     the same on another port (default 54329)
#   npm run postgres -- status | stop
#
# Where apt has the packages (Debian 13) they are installed; on an older Debian a root of Debian 13 is made beside the system and
# the server runs in it. Everything stands under REEMBED_POSTGRES_HOME (as root /var/lib/reembed/postgres-17), so a fresh clone
# finds it again. Calling this twice, or from two places at once, is safe.
set -euo pipefail

readonly RELEASE=trixie
readonly EXTENSIONS=(vector pg_cron pgtap plpgsql_check http)
readonly PACKAGES=(postgresql-17 postgresql-17-pgvector postgresql-17-cron postgresql-17-pgtap
  postgresql-17-plpgsql-check postgresql-17-http)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "postgres: $1"
  shift
  for line in "$@"; do say "  $line"; done
  exit 1
}

command=start
port=54329
while (($#)); do
  case $1 in
    start | stop | status) command=$1 ;;
    --port) port=${2:-} && shift $(($# > 1)) ;;
    --port=*) port=${1#*=} ;;
    *) say 'usage: npm run postgres -- [start|stop|status] [--port 54329]' && exit 2 ;;
  esac
  shift
done
[[ $port =~ ^[0-9]+$ ]] && ((port >= 1024 && port <= 65535)) || {
  say "postgres: --port must be a number from 1024 to 65535, not '$port'"
  exit 2
}

readonly shared_home=/var/lib/reembed/postgres-17
if ((EUID == 0)); then home=$shared_home; else home=${XDG_CACHE_HOME:-$HOME/.cache}/reembed/postgres-17; fi
readonly home=${REEMBED_POSTGRES_HOME:-$home}
readonly log=$home/postgres-$port.log
readonly url=postgresql://supabase_admin:postgres@127.0.0.1:$port/postgres

# --- Which server program: this machine's own, or the one in the root beside the system.

# The bin directory of a PostgreSQL 17 of this machine that has every extension.
own_bin() {
  local config extension
  for config in /usr/lib/postgresql/17/bin/pg_config "$(command -v pg_config || true)"; do
    [[ -x $config && $("$config" --version) == 'PostgreSQL 17'* ]] || continue
    for extension in "${EXTENSIONS[@]}"; do
      [[ -e $("$config" --sharedir)/extension/$extension.control ]] || continue 2
    done
    "$config" --bindir
    return
  done
  return 1
}

# Sets root (empty, or the directory of the root), bin, data (as the server sees it); false when there is no server program yet.
locate() {
  root=''
  if bin=$(own_bin); then
    data=$home/data-$port
  elif ((EUID == 0)) && [[ -x $home/root/usr/lib/postgresql/17/bin/postgres ]]; then
    root=$home/root
    bin=/usr/lib/postgresql/17/bin
    data=/var/lib/postgresql/data-$port
  else
    return 1
  fi
}

# Runs a program of the server's as its user, in its root. The lock's descriptor is closed: a server that inherits it keeps the lock.
as_server() {
  local ids
  if [[ -n $root ]]; then
    ids=$(awk -F: '$1 == "postgres" { print $3 ":" $4 }' "$root/etc/passwd")
    chroot --userspec="$ids" "$root" /usr/bin/env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 "$@" 9>&-
  elif ((EUID == 0)); then
    setpriv --reuid=postgres --regid=postgres --init-groups env -C / LC_ALL=C.UTF-8 "$@" 9>&-
  else
    LC_ALL=C.UTF-8 "$@" 9>&-
  fi
}

# --- Is it up?

# The server's process, from the file that a complete start leaves. It outlives a killed server, so the number may be another program's
# by now, or a dead process that nobody has collected. What root started counts for others too.
server_pid() {
  local directory pid
  for directory in "$home" "$shared_home"; do
    pid=$(cat "$directory/pid-$port" 2>/dev/null) || continue
    [[ $pid =~ ^[0-9]+$ && $(cat "/proc/$pid/comm" 2>/dev/null) == postgres ]] || continue
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" || continue
    printf '%s' "$pid"
    return
  done
  return 1
}
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
healthy() { server_pid >/dev/null && listening; }

# The processes that run in our data directory: of a server, or what outlived one that was killed.
processes_on_data() {
  local process
  for process in /proc/[0-9]*; do
    if [[ $process/cwd -ef ${root}${data} ]]; then printf '%s\n' "${process#/proc/}"; fi
  done
}
# The same as `healthy` for a start that was cut off before it left its file.
postmaster_pid() {
  local pid
  pid=$(head -n 1 "${root}${data}/postmaster.pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ && /proc/$pid/cwd -ef ${root}${data} ]] && printf '%s' "$pid"
}

report() {
  local log_note=''
  if [[ -e $log ]]; then log_note=", log $log"; fi
  say "PostgreSQL 17 is running on 127.0.0.1:$port (process $(server_pid)$log_note). What to tell the tests, which look on port 54329 by themselves:"
  printf 'export TEST_DATABASE_URL=%s\n' "$url"
}

# --- Installing.

install_server() {
  ((EUID == 0)) && [[ -r /etc/debian_version ]] && command -v apt-get >/dev/null && . /etc/os-release && [[ $ID == debian ]] ||
    fail 'there is no PostgreSQL 17 with all extensions on this machine, and only root on Debian can have it installed.' \
      "Needed: PostgreSQL 17 with the extensions ${EXTENSIONS[*]}." \
      "On Debian 13:  sudo apt-get install ${PACKAGES[*]}" \
      'With any other server that has them: export TEST_DATABASE_URL=<a superuser URL on loopback>'
  export DEBIAN_FRONTEND=noninteractive
  say 'postgres: reading the package lists'
  apt-get update -qq >&2
  if apt-get install --simulate -qq "${PACKAGES[@]}" >/dev/null 2>&1; then install_packages; else install_root; fi
}

install_packages() {
  say "postgres: installing ${PACKAGES[*]}"
  # The package would start a server of its own on 5432.
  if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi
  apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "${PACKAGES[@]}" >&2
}

install_root() {
  local mirror partial=$home/root.partial include
  say "postgres: making a root of Debian $RELEASE in $home/root (about a minute, 800 MB)"
  apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring >&2
  # The mirror that this machine uses; without one debootstrap knows its own.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | awk 'NR == 1')
  include=$(IFS=,; printf '%s' "${PACKAGES[*]}")
  rm -rf --one-file-system "$partial"
  # It keeps the lock: should this script be killed, the next call waits until it has ended too.
  in_mount_namespace debootstrap --variant=minbase --include="$include" "$RELEASE" "$partial" ${mirror:+"$mirror"} \
    >"$home/debootstrap.log" 2>&1 ||
    fail "debootstrap failed; the end of $home/debootstrap.log:" "$(tail -n 5 "$home/debootstrap.log")"
  rm -rf "$partial"/var/cache/apt/archives/*.deb "$partial"/var/lib/postgresql/17
  # The rename is the mark of a root that is whole.
  mv "$partial" "$home/root"
}

# What is mounted inside goes away with the process, however that ends. Where namespaces are not allowed, it runs without one.
in_mount_namespace() {
  if unshare --mount true 2>/dev/null; then unshare --mount --propagation private -- "$@"; else "$@"; fi
}

# --- Starting.

make_data() {
  say "postgres: making the database cluster"
  rm -rf "${root}${data:?}" "${root}${data}.partial"
  if [[ -z $root ]] && ((EUID == 0)); then install -d -o postgres -g postgres "$data.partial"; fi
  as_server "$bin/initdb" --pgdata="$data.partial" --username=supabase_admin --auth=trust \
    --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null
  mv "${root}${data}.partial" "${root}${data}"
}

start_server() {
  local start=("$bin/pg_ctl" start -D "$data" -w -t 60 -s -l "$data/server.log" -o "-p $port")
  cp "$here/postgres/postgresql.conf" "${root}${data}/postgresql.conf" || return
  ln -sf "${root}${data}/server.log" "$log"
  if [[ -z $root ]]; then
    as_server "${start[@]}"
    return
  fi
  # Parallel index builds share memory through /dev/shm, which is a plain directory in a new root.
  chmod 1777 "$root/dev/shm"
  export -f as_server
  export root
  in_mount_namespace bash -c 'mount --bind /dev/shm "$root/dev/shm" 2>/dev/null || true; as_server "$@"' - "${start[@]}"
}

run_sql() { # the database, then files
  local database=$1 && shift
  cat "$@" | as_server "$bin/psql" --no-psqlrc --quiet --single-transaction --set ON_ERROR_STOP=1 \
    --dbname="postgresql://supabase_admin@127.0.0.1:$port/$database" >/dev/null
}

# Makes the server look like a Supabase project. Each test's database is made from these files too, by a template.
prepare() {
  local sql=$here/postgres
  run_sql postgres "$sql/roles.sql" "$sql/database.sql" "$sql/default-privileges.sql"
  if ! as_server "$bin/psql" -XAtq -d "postgresql://supabase_admin@127.0.0.1:$port/postgres" \
    -c "select 1 from pg_database where datname = 'reembed_cron'" | grep -q 1; then
    as_server "$bin/createdb" --maintenance-db="postgresql://supabase_admin@127.0.0.1:$port/postgres" reembed_cron
  fi
}

# Removes what a killed server leaves: processes that have not noticed yet, and its pid file, whose number may be taken again.
clean_up_after_crash() {
  local pid
  for pid in $(processes_on_data); do kill -KILL "$pid" 2>/dev/null || true; done
  while [[ -n $(processes_on_data) ]]; do sleep 0.1; done
  rm -f "${root}${data}/postmaster.pid"
}

lock() {
  mkdir -p "$home" 2>/dev/null && [[ -w $home ]] ||
    fail "$home is not yours to write to." 'Set REEMBED_POSTGRES_HOME to a directory of your own.'
  exec 9>"$home/lock"
  flock 9
}

start() {
  lock
  # Another call may have started it while this one waited.
  if healthy; then return; fi
  rm -f "$home/pid-$port"
  if locate && postmaster_pid >/dev/null; then
    say 'postgres: the server runs, from a start that was cut off'
  elif listening; then
    fail "another program listens on 127.0.0.1:$port." "Choose another port: npm run postgres -- --port $((port + 1))"
  else
    if ! locate; then
      install_server
      locate || fail 'the installation left no server program behind; see the messages above.'
    fi
    clean_up_after_crash
    [[ -e ${root}${data}/PG_VERSION ]] || make_data
    say "postgres: starting PostgreSQL on 127.0.0.1:$port"
    if ! start_server; then
      # It waits for no disk, so a machine that lost its power leaves data that do not start. They are a test's: make them anew.
      say 'postgres: the data of the last run do not start; making them anew'
      make_data
      start_server || fail "the server does not start; the end of $log:" "$(tail -n 10 "${root}${data}/server.log" 2>&1)"
    fi
  fi
  prepare
  postmaster_pid >"$home/pid-$port.new"
  mv "$home/pid-$port.new" "$home/pid-$port"
}

stop() {
  lock
  locate || fail 'this user has installed no server.'
  if postmaster_pid >/dev/null; then
    as_server "$bin/pg_ctl" stop -D "$data" -m fast -w -s
    say "postgres: stopped the server on port $port"
  else
    say "postgres: no server of this user is running on port $port"
  fi
  rm -f "$home/pid-$port"
}

case $command in
  start)
    # Not `healthy || start`: that would switch `set -e` off inside.
    if ! healthy; then start; fi
    report
    ;;
  stop) stop ;;
  status) if healthy; then report; else fail "not running on port $port." 'Start it: npm run postgres'; fi ;;
esac
