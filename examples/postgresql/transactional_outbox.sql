-- The schema of examples/postgresql/transactional_outbox.py. bytea for names: text can hold no U+0000, and a collation might
-- fold.

-- How many events an aggregate has had. Who saves one holds the row until the transaction ends, so that events of an aggregate
-- become visible in their order, and a number that was rolled back is given again. Relays do not touch it.
CREATE TABLE outbox_sequences (
    owner     bytea NOT NULL,
    aggregate bytea NOT NULL,
    last      bigint NOT NULL,
    PRIMARY KEY (owner, aggregate)
) WITH (fillfactor = 70);

CREATE TABLE outbox_events (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- drawn while the row is held: within an aggregate in order
    owner       bytea NOT NULL,                            -- a namespace and a tenant
    id          text NOT NULL,
    topic       bytea NOT NULL,
    payload     bytea NOT NULL,
    message_key bytea,
    aggregate   bytea,
    headers     text NOT NULL,
    sequence    bigint,
    attempts    integer NOT NULL DEFAULT 0,
    due         timestamptz NOT NULL DEFAULT '-infinity',  -- from when it may be claimed: the end of a lease, or of a pause
    claim       text,                                      -- who has it until then; NULL in a pause
    relay       text,                                      -- for who looks at the table, as is the error
    error       text,
    parked      timestamptz,
    processed   timestamptz,
    UNIQUE (owner, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX outbox_pending ON outbox_events (owner, number) WHERE processed IS NULL;
CREATE INDEX outbox_order ON outbox_events (owner, aggregate, sequence) WHERE processed IS NULL;
CREATE INDEX outbox_processed ON outbox_events (owner, processed) WHERE processed IS NOT NULL;

-- The other side: what a consumer has done.
CREATE TABLE inbox_messages (
    owner    bytea NOT NULL,
    consumer bytea NOT NULL,
    id       bytea NOT NULL,
    recorded timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (owner, consumer, id)
);
