"""Events of months long over, in Parquet files of their own instead of the database. See docs/adr/0021-archive.md."""
