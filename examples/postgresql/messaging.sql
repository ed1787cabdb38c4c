-- The schema of examples/postgresql/queues.py. A topic is named by the digest of its tenant and its name, a queue by that of its
-- group too: names of 62 characters, which fit an index and a channel of NOTIFY, however long they were.

-- The groups of a topic besides the default one, which every topic has from the beginning and which needs no row.
CREATE TABLE message_groups (
    topic text NOT NULL,
    queue text NOT NULL,
    PRIMARY KEY (topic, queue)
);

-- The clients that listen to a topic. A notice wakes every session of the database that listens to anything at all, so it is given
-- where somebody else wants it. Losing this table costs a little time, hence UNLOGGED.
CREATE UNLOGGED TABLE message_listeners (
    topic  text NOT NULL,
    client text NOT NULL,
    PRIMARY KEY (topic, client)
);

CREATE INDEX message_listeners_by_client ON message_listeners (client);

-- A message, once for each group that it waits for. Rows come and go all the time, hence the busy vacuum.
CREATE TABLE message_deliveries (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue    text NOT NULL,
    key      bytea,                                       -- bytea: text can hold no U+0000, and a collation might fold
    envelope text NOT NULL,
    payload  bytea NOT NULL,
    due      timestamptz NOT NULL,                        -- when it may be handed out: also the end of a lease, and of a delay
    expires  timestamptz NOT NULL DEFAULT 'infinity',
    attempts integer NOT NULL DEFAULT 0,                  -- fences off a consumer that is late: the next one has another number
    schedule text                                         -- by which a message for later is taken back
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX message_due ON message_deliveries (queue, due, number);
CREATE INDEX message_before ON message_deliveries (queue, key, due, number) WHERE key IS NOT NULL;
CREATE INDEX message_expiry ON message_deliveries (queue, expires) WHERE expires < 'infinity';
CREATE INDEX message_schedule ON message_deliveries (schedule) WHERE schedule IS NOT NULL;

-- One message of a key is under way, whatever two consumers saw at the same time.
CREATE UNIQUE INDEX message_under_way ON message_deliveries (queue, key) WHERE key IS NOT NULL AND attempts > 0;

-- The ids that publishers chose, for a day.
CREATE TABLE message_ids (
    topic text NOT NULL,
    id    bytea NOT NULL,
    since timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (topic, id)
);

CREATE INDEX message_ids_by_age ON message_ids (since);
