// Written by "npm run types" from the migrations. Do not edit.

export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[];

export type Database = {
  public: {
    Tables: {
      article_chunks: {
        Row: {
          article_id: number;
          chunk_index: number;
          embedding: string | null;
          embedding_3072: string | null;
          embedding_vector: string | null;
          id: number;
          text: string;
          title: string | null;
          url: string | null;
        };
        Insert: {
          article_id: number;
          chunk_index: number;
          embedding?: string | null;
          embedding_3072?: number[] | string | null;
          embedding_vector?: number[] | string | null;
          id?: number;
          text: string;
          title?: string | null;
          url?: string | null;
        };
        Update: {
          article_id?: number;
          chunk_index?: number;
          embedding?: string | null;
          embedding_3072?: number[] | string | null;
          embedding_vector?: number[] | string | null;
          id?: number;
          text?: string;
          title?: string | null;
          url?: string | null;
        };
        Relationships: [
          {
            columns: ["article_id"];
            isOneToOne: false;
            foreignKeyName: "article_chunks_article_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "articles";
          },
        ];
      };
      articles: {
        Row: {
          content: string | null;
          id: number;
          published_at: string | null;
          title: string | null;
          url: string | null;
        };
        Insert: {
          content?: string | null;
          id?: number;
          published_at?: string | null;
          title?: string | null;
          url?: string | null;
        };
        Update: {
          content?: string | null;
          id?: number;
          published_at?: string | null;
          title?: string | null;
          url?: string | null;
        };
        Relationships: [];
      };
      artifact_chunk_1536: {
        Row: {
          artifact_chunk_id: string;
          content_hash: string | null;
          cost_usd: number | null;
          embedded_at: string | null;
          embedding: string;
          id: string;
          space_id: string | null;
          tokens: number | null;
          truncated: boolean | null;
        };
        Insert: {
          artifact_chunk_id: string;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Update: {
          artifact_chunk_id?: string;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding?: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Relationships: [
          {
            columns: ["artifact_chunk_id"];
            isOneToOne: true;
            foreignKeyName: "artifact_chunk_1536_artifact_chunk_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifact_chunks";
          },
        ];
      };
      artifact_chunk_3072: {
        Row: {
          artifact_chunk_id: string;
          content_hash: string | null;
          cost_usd: number | null;
          embedded_at: string | null;
          embedding: string;
          id: string;
          space_id: string | null;
          tokens: number | null;
          truncated: boolean | null;
        };
        Insert: {
          artifact_chunk_id: string;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Update: {
          artifact_chunk_id?: string;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding?: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Relationships: [
          {
            columns: ["artifact_chunk_id"];
            isOneToOne: true;
            foreignKeyName: "artifact_chunk_3072_artifact_chunk_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifact_chunks";
          },
        ];
      };
      artifact_chunks: {
        Row: {
          artifact_id: number;
          content: string;
          id: string;
          owner_id: string;
          position: number;
          type: string;
          workspace_id: string | null;
        };
        Insert: {
          artifact_id: number;
          content: string;
          id?: string;
          owner_id: string;
          position: number;
          type: string;
          workspace_id?: string | null;
        };
        Update: {
          artifact_id?: number;
          content?: string;
          id?: string;
          owner_id?: string;
          position?: number;
          type?: string;
          workspace_id?: string | null;
        };
        Relationships: [
          {
            columns: ["artifact_id"];
            isOneToOne: false;
            foreignKeyName: "artifact_chunks_artifact_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifacts";
          },
        ];
      };
      artifact_full_1536: {
        Row: {
          artifact_id: number;
          content_hash: string | null;
          cost_usd: number | null;
          embedded_at: string | null;
          embedding: string;
          id: string;
          space_id: string | null;
          tokens: number | null;
          truncated: boolean | null;
        };
        Insert: {
          artifact_id: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Update: {
          artifact_id?: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding?: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Relationships: [
          {
            columns: ["artifact_id"];
            isOneToOne: true;
            foreignKeyName: "artifact_full_1536_artifact_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifacts";
          },
        ];
      };
      artifact_full_3072: {
        Row: {
          artifact_id: number;
          content_hash: string | null;
          cost_usd: number | null;
          embedded_at: string | null;
          embedding: string;
          id: string;
          space_id: string | null;
          tokens: number | null;
          truncated: boolean | null;
        };
        Insert: {
          artifact_id: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Update: {
          artifact_id?: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding?: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Relationships: [
          {
            columns: ["artifact_id"];
            isOneToOne: true;
            foreignKeyName: "artifact_full_3072_artifact_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifacts";
          },
        ];
      };
      artifact_summary_1536: {
        Row: {
          artifact_id: number;
          content_hash: string | null;
          cost_usd: number | null;
          embedded_at: string | null;
          embedding: string;
          id: string;
          space_id: string | null;
          tokens: number | null;
          truncated: boolean | null;
        };
        Insert: {
          artifact_id: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Update: {
          artifact_id?: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding?: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Relationships: [
          {
            columns: ["artifact_id"];
            isOneToOne: true;
            foreignKeyName: "artifact_summary_1536_artifact_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifacts";
          },
        ];
      };
      artifact_summary_3072: {
        Row: {
          artifact_id: number;
          content_hash: string | null;
          cost_usd: number | null;
          embedded_at: string | null;
          embedding: string;
          id: string;
          space_id: string | null;
          tokens: number | null;
          truncated: boolean | null;
        };
        Insert: {
          artifact_id: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Update: {
          artifact_id?: number;
          content_hash?: string | null;
          cost_usd?: number | null;
          embedded_at?: string | null;
          embedding?: number[] | string;
          id?: string;
          space_id?: string | null;
          tokens?: number | null;
          truncated?: boolean | null;
        };
        Relationships: [
          {
            columns: ["artifact_id"];
            isOneToOne: true;
            foreignKeyName: "artifact_summary_3072_artifact_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifacts";
          },
        ];
      };
      artifact_workspace_members: {
        Row: { user_id: string; workspace_id: string };
        Insert: { user_id: string; workspace_id: string };
        Update: { user_id?: string; workspace_id?: string };
        Relationships: [
          {
            columns: ["workspace_id"];
            isOneToOne: false;
            foreignKeyName: "artifact_workspace_members_workspace_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifact_workspaces";
          },
        ];
      };
      artifact_workspaces: {
        Row: { created_at: string; id: string; name: string };
        Insert: { created_at?: string; id?: string; name: string };
        Update: { created_at?: string; id?: string; name?: string };
        Relationships: [];
      };
      artifacts: {
        Row: {
          content: string | null;
          created_at: string;
          description: string | null;
          id: number;
          owner_id: string;
          skills: string[];
          summary: string | null;
          title: string;
          type: string;
          words: string | null;
          workspace_id: string | null;
        };
        Insert: {
          content?: string | null;
          created_at?: string;
          description?: string | null;
          id?: never;
          owner_id?: string;
          skills?: string[];
          summary?: string | null;
          title: string;
          type?: string;
          words?: string | null;
          workspace_id?: string | null;
        };
        Update: {
          content?: string | null;
          created_at?: string;
          description?: string | null;
          id?: never;
          owner_id?: string;
          skills?: string[];
          summary?: string | null;
          title?: string;
          type?: string;
          words?: string | null;
          workspace_id?: string | null;
        };
        Relationships: [
          {
            columns: ["workspace_id"];
            isOneToOne: false;
            foreignKeyName: "artifacts_workspace_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "artifact_workspaces";
          },
        ];
      };
      bora_docs: {
        Row: {
          content: string;
          embedding: string | null;
          embedding_1536: string | null;
          id: string;
          source: string | null;
          title: string;
        };
        Insert: {
          content: string;
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          id?: string;
          source?: string | null;
          title: string;
        };
        Update: {
          content?: string;
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          id?: string;
          source?: string | null;
          title?: string;
        };
        Relationships: [];
      };
      course_content: {
        Row: {
          content: string;
          content_type: string | null;
          embedding: string | null;
          embedding_1536: string | null;
          id: string;
          importance: number | null;
          module_id: string | null;
          parent_id: string | null;
          part_id: string | null;
          title: string;
          url: string | null;
        };
        Insert: {
          content: string;
          content_type?: string | null;
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          id?: string;
          importance?: number | null;
          module_id?: string | null;
          parent_id?: string | null;
          part_id?: string | null;
          title: string;
          url?: string | null;
        };
        Update: {
          content?: string;
          content_type?: string | null;
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          id?: string;
          importance?: number | null;
          module_id?: string | null;
          parent_id?: string | null;
          part_id?: string | null;
          title?: string;
          url?: string | null;
        };
        Relationships: [];
      };
      image_embeddings: {
        Row: {
          created_at: string;
          id: number;
          image_embedding: string | null;
          image_id: number;
          image_url: string | null;
          model_version: string | null;
          product_id: number;
          updated_at: string;
        };
        Insert: {
          created_at?: string;
          id?: number;
          image_embedding?: number[] | string | null;
          image_id: number;
          image_url?: string | null;
          model_version?: string | null;
          product_id: number;
          updated_at?: string;
        };
        Update: {
          created_at?: string;
          id?: number;
          image_embedding?: number[] | string | null;
          image_id?: number;
          image_url?: string | null;
          model_version?: string | null;
          product_id?: number;
          updated_at?: string;
        };
        Relationships: [
          {
            columns: ["image_id"];
            isOneToOne: true;
            foreignKeyName: "image_embeddings_image_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "product_images";
          },
        ];
      };
      image_embeddings_1536: {
        Row: { embedding_1536: string | null; image_id: number };
        Insert: { embedding_1536?: number[] | string | null; image_id: number };
        Update: { embedding_1536?: number[] | string | null; image_id?: number };
        Relationships: [
          {
            columns: ["image_id"];
            isOneToOne: true;
            foreignKeyName: "image_embeddings_1536_image_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "product_images";
          },
        ];
      };
      lexicon: {
        Row: {
          embedding: string | null;
          embedding_1536: string | null;
          gloss: string;
          headword: string;
          homograph: number;
          id: string;
          part_of_speech: string | null;
          variants: string | null;
        };
        Insert: {
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          gloss: string;
          headword: string;
          homograph?: number;
          id?: string;
          part_of_speech?: string | null;
          variants?: string | null;
        };
        Update: {
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          gloss?: string;
          headword?: string;
          homograph?: number;
          id?: string;
          part_of_speech?: string | null;
          variants?: string | null;
        };
        Relationships: [];
      };
      phrases: {
        Row: {
          bora: string;
          embedding: string | null;
          embedding_1536: string | null;
          english: string | null;
          id: string;
          spanish: string;
        };
        Insert: {
          bora: string;
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          english?: string | null;
          id?: string;
          spanish: string;
        };
        Update: {
          bora?: string;
          embedding?: number[] | string | null;
          embedding_1536?: number[] | string | null;
          english?: string | null;
          id?: string;
          spanish?: string;
        };
        Relationships: [];
      };
      product_images: {
        Row: {
          column_number: number | null;
          id: number;
          image_filename: string | null;
          image_url: string | null;
          product_id: number;
        };
        Insert: {
          column_number?: number | null;
          id?: number;
          image_filename?: string | null;
          image_url?: string | null;
          product_id: number;
        };
        Update: {
          column_number?: number | null;
          id?: number;
          image_filename?: string | null;
          image_url?: string | null;
          product_id?: number;
        };
        Relationships: [
          {
            columns: ["product_id"];
            isOneToOne: false;
            foreignKeyName: "product_images_product_id_fkey";
            referencedColumns: ["id"];
            referencedRelation: "products";
          },
        ];
      };
      products: {
        Row: { article: string | null; id: number; name: string; url: string | null };
        Insert: { article?: string | null; id?: number; name: string; url?: string | null };
        Update: { article?: string | null; id?: number; name?: string; url?: string | null };
        Relationships: [];
      };
    };
    Views: {
      artifact_embeddings: {
        Row: {
          artifact_chunk_id: string | null;
          artifact_id: number | null;
          content_hash: string | null;
          content_type: string | null;
          embedding_vector: string | null;
          generated_at: string | null;
          id: string | null;
          metadata: Json | null;
          model_dimensions: number | null;
          model_version: string | null;
          processing_cost_usd: number | null;
          version: number | null;
        };
        Relationships: [];
      };
      chunk_embeddings: {
        Row: {
          artifact_chunk_id: string | null;
          content_hash: string | null;
          embedding_vector: string | null;
          generated_at: string | null;
          id: string | null;
          metadata: Json | null;
          model_dimensions: number | null;
          model_version: string | null;
          processing_cost_usd: number | null;
          version: number | null;
        };
        Relationships: [];
      };
      job_embeddings: {
        Row: {
          access_count: number | null;
          embedding_vector: string | null;
          generated_at: string | null;
          job_description_hash: string | null;
          space_id: string | null;
          used_at: string | null;
        };
        Relationships: [];
      };
    };
    Functions: {
      artifact_embedding_list: { Args: { artifact_id: number }; Returns: Json };
      embedding_route: {
        Args: { collection: string; version?: number; caller_bucket?: number };
        Returns: Json;
      };
      fold_spelling: { Args: { spelling: string }; Returns: string };
      hybrid_article_chunks: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          filter_article_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          article_id: number;
          chunk_index: number;
          text: string;
          title: string;
          url: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_article_chunks_v2: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          filter_article_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          article_id: number;
          chunk_index: number;
          text: string;
          title: string;
          url: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_artifacts: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          filter_owner_id?: string;
          filter_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: {
          id: number;
          owner_id: string;
          title: string;
          type: string;
          description: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_artifacts_v2: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          filter_owner_id?: string;
          filter_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: {
          id: number;
          owner_id: string;
          title: string;
          type: string;
          description: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_bora_docs: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          spelling_weight?: number;
          filter_source?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          title: string;
          content: string;
          source: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_bora_docs_v2: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          spelling_weight?: number;
          filter_source?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          title: string;
          content: string;
          source: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_course_content: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          filter_content_type?: string;
          filter_part_id?: string;
          filter_module_id?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          title: string;
          content: string;
          url: string;
          content_type: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_course_content_v2: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          filter_content_type?: string;
          filter_part_id?: string;
          filter_module_id?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          title: string;
          content: string;
          url: string;
          content_type: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_lexicon: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          spelling_weight?: number;
          filter_part_of_speech?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          headword: string;
          homograph: number;
          part_of_speech: string;
          gloss: string;
          variants: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_lexicon_v2: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          spelling_weight?: number;
          filter_part_of_speech?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          headword: string;
          homograph: number;
          part_of_speech: string;
          gloss: string;
          variants: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_phrases: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          spelling_weight?: number;
          query_space?: string;
        };
        Returns: {
          id: string;
          bora: string;
          spanish: string;
          english: string;
          similarity: number;
          score: number;
        }[];
      };
      hybrid_phrases_v2: {
        Args: {
          query_text: string;
          query_embedding?: number[] | string;
          match_count?: number;
          rrf_k?: number;
          full_text_weight?: number;
          semantic_weight?: number;
          spelling_weight?: number;
          query_space?: string;
        };
        Returns: {
          id: string;
          bora: string;
          spanish: string;
          english: string;
          similarity: number;
          score: number;
        }[];
      };
      match_article_chunks: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_article_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          article_id: number;
          chunk_index: number;
          text: string;
          title: string;
          url: string;
          similarity: number;
        }[];
      };
      match_article_chunks_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_article_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          article_id: number;
          chunk_index: number;
          text: string;
          title: string;
          url: string;
          similarity: number;
        }[];
      };
      match_artifact_chunks: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_owner_id?: string;
          filter_artifact_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: { id: string; artifact_id: number; position: number; content: string; similarity: number }[];
      };
      match_artifact_chunks_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_owner_id?: string;
          filter_artifact_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: { id: string; artifact_id: number; position: number; content: string; similarity: number }[];
      };
      match_artifact_summaries: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_owner_id?: string;
          filter_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: {
          id: number;
          owner_id: string;
          title: string;
          type: string;
          description: string;
          similarity: number;
        }[];
      };
      match_artifact_summaries_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_owner_id?: string;
          filter_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: {
          id: number;
          owner_id: string;
          title: string;
          type: string;
          description: string;
          similarity: number;
        }[];
      };
      match_artifacts: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_owner_id?: string;
          filter_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: {
          id: number;
          owner_id: string;
          title: string;
          type: string;
          description: string;
          similarity: number;
        }[];
      };
      match_artifacts_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_owner_id?: string;
          filter_id_any?: number[];
          filter_type_any?: string[];
          query_space?: string;
        };
        Returns: {
          id: number;
          owner_id: string;
          title: string;
          type: string;
          description: string;
          similarity: number;
        }[];
      };
      match_bora_docs: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_source?: string;
          query_space?: string;
        };
        Returns: { id: string; title: string; content: string; source: string; similarity: number }[];
      };
      match_bora_docs_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_source?: string;
          query_space?: string;
        };
        Returns: { id: string; title: string; content: string; source: string; similarity: number }[];
      };
      match_course_content: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_content_type?: string;
          filter_part_id?: string;
          filter_module_id?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          title: string;
          content: string;
          url: string;
          content_type: string;
          similarity: number;
        }[];
      };
      match_course_content_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_content_type?: string;
          filter_part_id?: string;
          filter_module_id?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          title: string;
          content: string;
          url: string;
          content_type: string;
          similarity: number;
        }[];
      };
      match_lexicon: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_part_of_speech?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          headword: string;
          homograph: number;
          part_of_speech: string;
          gloss: string;
          variants: string;
          similarity: number;
        }[];
      };
      match_lexicon_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_part_of_speech?: string;
          query_space?: string;
        };
        Returns: {
          id: string;
          headword: string;
          homograph: number;
          part_of_speech: string;
          gloss: string;
          variants: string;
          similarity: number;
        }[];
      };
      match_phrases: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          query_space?: string;
        };
        Returns: { id: string; bora: string; spanish: string; english: string; similarity: number }[];
      };
      match_phrases_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          query_space?: string;
        };
        Returns: { id: string; bora: string; spanish: string; english: string; similarity: number }[];
      };
      match_product_images: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_product_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          product_id: number;
          column_number: number;
          image_url: string;
          image_filename: string;
          similarity: number;
        }[];
      };
      match_product_images_v2: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          filter_product_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          product_id: number;
          column_number: number;
          image_url: string;
          image_filename: string;
          similarity: number;
        }[];
      };
      match_products: {
        Args: {
          query_embedding: number[] | string;
          match_threshold?: number;
          match_count?: number;
          version?: number;
          query_space?: string;
        };
        Returns: {
          product_id: number;
          name: string;
          article: string;
          url: string;
          image_id: number;
          column_number: number;
          image_url: string;
          image_filename: string;
          similarity: number;
        }[];
      };
      rank_artifacts: {
        Args: {
          job_description: string;
          query_embedding?: string;
          version?: number;
          query_space?: string;
          artifact_ids?: number[];
          ranking_method?: string;
          top_k?: number;
        };
        Returns: Json;
      };
      recent_article_chunks: {
        Args: {
          query_embedding: number[] | string;
          match_count?: number;
          half_life_days?: number;
          recency_weight?: number;
          candidates?: number;
          match_threshold?: number;
          filter_article_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          article_id: number;
          chunk_index: number;
          text: string;
          title: string;
          url: string;
          similarity: number;
          recency: number;
          score: number;
        }[];
      };
      recent_article_chunks_v2: {
        Args: {
          query_embedding: number[] | string;
          match_count?: number;
          half_life_days?: number;
          recency_weight?: number;
          candidates?: number;
          match_threshold?: number;
          filter_article_id?: number;
          query_space?: string;
        };
        Returns: {
          id: number;
          article_id: number;
          chunk_index: number;
          text: string;
          title: string;
          url: string;
          similarity: number;
          recency: number;
          score: number;
        }[];
      };
      reembed_apply_article: {
        Args: { url: string; title: string; content: string; published_at: string; chunks: string[] };
        Returns: Json;
      };
      reembed_apply_course_page: { Args: { upserts: Json; deletes: string[] }; Returns: Json };
      reembed_begin_completion: {
        Args: {
          model_id: string;
          purpose: string;
          input_tokens: number;
          max_output_tokens: number;
          collection?: string;
          caller_hash?: string;
          lease_seconds?: number;
        };
        Returns: Json;
      };
      reembed_begin_description: {
        Args: { describer: string; image_hash: string; lease_seconds?: number };
        Returns: Json;
      };
      reembed_begin_queries: {
        Args: { space_id: string; query_hashes: string[]; tokens: number[]; caller_hash?: string };
        Returns: Json;
      };
      reembed_begin_query: {
        Args: { space_id: string; query_hash: string; tokens: number; caller_hash?: string };
        Returns: Json;
      };
      reembed_claim: {
        Args: {
          collection?: string;
          version?: number;
          max_rows?: number;
          max_tokens?: number;
          lease_seconds?: number;
          except_spaces?: string[];
          row_ids?: string[];
        };
        Returns: Json;
      };
      reembed_complete: {
        Args: {
          version_id: number;
          space_id: string;
          lease_token: string;
          row_ids: string[];
          hashes: string[];
          vectors: string[];
          tokens: number[];
          skipped?: string[];
          wait?: boolean;
          truncated?: boolean[];
        };
        Returns: Json;
      };
      reembed_complete_vectors: {
        Args: {
          version_id: number;
          space_id: string;
          lease_token: string;
          row_ids: string[];
          hashes: string[];
          vectors: string[];
          tokens: number[];
          skipped?: string[];
          wait?: boolean;
          truncated?: boolean[];
        };
        Returns: Json;
      };
      reembed_completion_model: { Args: { model_id: string }; Returns: Json };
      reembed_copy: {
        Args: {
          version_id: number;
          space_id: string;
          lease_token: string;
          row_ids: string[];
          hashes: string[];
          wait?: boolean;
        };
        Returns: Json;
      };
      reembed_count_search: {
        Args: { collection: string; version: number; empty: boolean; latency_ms?: number };
        Returns: undefined;
      };
      reembed_course_page: { Args: { page: string }; Returns: Json };
      reembed_end_completion: {
        Args: {
          ticket: number;
          input_tokens: number;
          output_tokens: number;
          latency_ms: number;
          outcome: string;
          state?: string;
        };
        Returns: undefined;
      };
      reembed_end_description: { Args: { ticket: string; description?: string }; Returns: undefined };
      reembed_end_queries: {
        Args: {
          ticket: number;
          query_hashes: string[];
          embeddings: string[];
          tokens: number;
          latency_ms: number;
          outcome: string;
          state?: string;
        };
        Returns: undefined;
      };
      reembed_end_query: {
        Args: {
          ticket: number;
          query_hash: string;
          tokens: number;
          latency_ms: number;
          outcome: string;
          state?: string;
          embedding?: string;
        };
        Returns: undefined;
      };
      reembed_enter_slot: { Args: { slots?: number; seconds?: number }; Returns: string };
      reembed_fail: {
        Args: {
          version_id: number;
          lease_token: string;
          row_ids: string[];
          error: string;
          retry_seconds?: number;
        };
        Returns: Json;
      };
      reembed_image_coverage: { Args: never; Returns: Json };
      reembed_leave_slot: { Args: { token: string }; Returns: undefined };
      reembed_log_query: { Args: { collection: string; query: string }; Returns: undefined };
      reembed_order_rows: {
        Args: {
          collection: string;
          version: number;
          row_ids: string[];
          force?: boolean;
          caller_hash?: string;
        };
        Returns: Json;
      };
      reembed_pause_space: {
        Args: { space_id: string; reason: string; seconds?: number };
        Returns: undefined;
      };
      reembed_release: {
        Args: { version_id: number; lease_token: string; row_ids?: string[]; delay_seconds?: number };
        Returns: number;
      };
      reembed_settle: { Args: { usage_id: number; requests: Json; answer?: Json }; Returns: undefined };
      reembed_watch_searches: { Args: { version_id: number }; Returns: Json };
      similar_artifacts: {
        Args: {
          query_embeddings: string[];
          content_type?: string;
          version?: number;
          query_space?: string;
          match_count?: number;
          match_threshold?: number;
          artifact_types?: string[];
          user_only?: boolean;
          method?: string;
        };
        Returns: Json;
      };
    };
    Enums: { [_ in never]: never };
    CompositeTypes: { [_ in never]: never };
  };
};
