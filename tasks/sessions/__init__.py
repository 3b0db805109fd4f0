"""How sessions end after 24 hours, in Tenure's own table and in other programs' stores."""
