"""PostgreSQL through psycopg 3: rows, expiry that is filtered on read, and LISTEN/NOTIFY."""
