"""Mail transports: SMTP, SES, and failover between them."""
