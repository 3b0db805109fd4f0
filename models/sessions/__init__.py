"""Who is signed in, which sessions were swept, and which a legal hold preserves."""
