"""What an application imports: requests, usage, files, records, documents, sessions."""
