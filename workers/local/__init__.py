"""The local stack: real PostgreSQL, Valkey, S3 and an SMTP inbox from wheels, and the processes beside them."""
