"""Pictures with captions as they are distributed: tables beside files, tar shards, Parquet with the pictures inside."""
