-- The schema of examples/postgresql/document_database.py.

CREATE TABLE documents (
    tenant     bytea NOT NULL,
    collection text COLLATE "C" NOT NULL,  -- compared by its bytes, whatever the database's own collation folds
    id         text COLLATE "C" NOT NULL,
    rev        text NOT NULL,              -- another after each write, and never the same twice
    body       text NOT NULL,              -- the document, exactly
    search     jsonb NOT NULL,             -- the same for filters: jsonb has one type of numbers, and prints 1e16 with 17 digits
    PRIMARY KEY (tenant, collection, id)
);
