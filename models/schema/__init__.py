"""How the database gets its schema: migrations, SQL functions, rights."""
