-- The schema of examples/postgresql/distributed_lock.py.

CREATE SEQUENCE lock_tokens;

CREATE TABLE locks (
    tenant  bytea NOT NULL,
    name    bytea NOT NULL,
    owner   text NOT NULL,         -- the empty text: nobody, and yet it cannot be had before it expires
    token   bigint NOT NULL,
    expires timestamptz NOT NULL,  -- a lock that has expired is free: every statement says so
    PRIMARY KEY (tenant, name)
);

CREATE TABLE lock_waiters (
    place   bigint GENERATED ALWAYS AS IDENTITY,  -- in the queue
    tenant  bytea NOT NULL,
    name    bytea NOT NULL,
    owner   text NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (tenant, name, owner)
);

-- The token of a new lease, or NULL if somebody holds the lock or waits for it in front of this owner. Who waits has a place
-- in the queue, which he keeps for *keeps* seconds from each call; NULL: he does not wait.
--
-- Who wants a lock that has no row makes one that has expired for ever, so that there always is a row to lock. What follows is
-- done by one at a time: so places are given in the order of arrival, and tokens in that of the grants.
--
-- clock_timestamp, not that of the transaction or of the statement: whoever waited for the row would judge by an old time.
CREATE FUNCTION lock_take(whose bytea, what bytea, who text, seconds float8, keeps float8) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    ends timestamptz;
    mine bigint;
    granted bigint;
BEGIN
    LOOP
        INSERT INTO locks VALUES (whose, what, '', 0, '-infinity') ON CONFLICT DO NOTHING;
        SELECT expires INTO ends FROM locks WHERE tenant = whose AND name = what FOR UPDATE;
        EXIT WHEN FOUND;  -- else it was freed in between
    END LOOP;
    IF keeps IS NOT NULL THEN
        INSERT INTO lock_waiters (tenant, name, owner, expires)
            VALUES (whose, what, who, clock_timestamp() + make_interval(secs => keeps))
            ON CONFLICT (tenant, name, owner) DO UPDATE SET expires = EXCLUDED.expires
            RETURNING place INTO mine;
    END IF;
    IF ends <= clock_timestamp() AND NOT EXISTS (
        SELECT 1 FROM lock_waiters
        WHERE tenant = whose AND name = what AND expires > clock_timestamp() AND (mine IS NULL OR place < mine)
    ) THEN
        DELETE FROM lock_waiters WHERE tenant = whose AND name = what AND (owner = who OR expires <= clock_timestamp());
        UPDATE locks SET owner = who, token = nextval('lock_tokens'), expires = clock_timestamp() + make_interval(secs => seconds)
            WHERE tenant = whose AND name = what
            RETURNING token INTO granted;
    END IF;
    RETURN granted;
END $$;
