-- The schema of examples/postgresql/kv_store.py. bytea throughout: text can hold no U+0000, and a collation might fold.

CREATE SEQUENCE kv_versions;

CREATE TABLE kv_entries (
    tenant  bytea NOT NULL,
    key     bytea NOT NULL,
    value   bytea NOT NULL,
    version bigint NOT NULL DEFAULT nextval('kv_versions'),  -- never the same twice, deleted rows included
    expires timestamptz NOT NULL DEFAULT 'infinity',         -- a row that has expired is no entry: every query says so
    PRIMARY KEY (tenant, key)
);

-- Tell the watchers of the row's tenant: key, version, and what became of it. The version keeps two equal changes of one
-- transaction apart, which NOTIFY would otherwise fold into one. A payload has to stay below 8000 bytes: '?' stands for a
-- value that the watcher must read.
CREATE FUNCTION kv_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    entry kv_entries := coalesce(NEW, OLD);
BEGIN
    PERFORM pg_notify(
        'kv_' || left(encode(sha256(entry.tenant), 'hex'), 60),
        concat_ws(' ', encode(entry.key, 'hex'), entry.version, CASE
            WHEN TG_OP = 'DELETE' THEN '-'
            WHEN length(entry.value) > 2000 THEN '?'
            ELSE '=' || encode(entry.value, 'hex')
        END)
    );
    RETURN NULL;
END $$;

-- A transaction locks absent keys through rows that expired for ever ago; those are nobody's business.
CREATE TRIGGER kv_inserted AFTER INSERT ON kv_entries FOR EACH ROW
    WHEN (NEW.expires > '-infinity') EXECUTE FUNCTION kv_notify();
CREATE TRIGGER kv_updated AFTER UPDATE ON kv_entries FOR EACH ROW
    WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION kv_notify();
CREATE TRIGGER kv_deleted AFTER DELETE ON kv_entries FOR EACH ROW
    WHEN (OLD.expires > '-infinity') EXECUTE FUNCTION kv_notify();

-- The steps of a transaction in one round trip, so that no lock is ever held while a client is silent. Returns 0, or the
-- number of the expectation that failed; then nothing was changed.
--
-- All keys are locked first, in their order, so that two transactions cannot wait for each other. An absent key has no row
-- to lock, hence gets one that has already expired: nobody sees it, and everybody who writes the key waits for it.
CREATE FUNCTION kv_transact(owner bytea, kinds text[], names bytea[], contents bytea[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    seen bytea;
BEGIN
    INSERT INTO kv_entries AS e (tenant, key, value, expires)
        SELECT owner, name, '', '-infinity' FROM (SELECT DISTINCT name FROM unnest(names) AS name) AS n ORDER BY name
        ON CONFLICT (tenant, key) DO UPDATE SET expires = e.expires;
    BEGIN
        FOR i IN 1 .. coalesce(array_length(kinds, 1), 0) LOOP
            IF kinds[i] = 'put' THEN
                INSERT INTO kv_entries (tenant, key, value) VALUES (owner, names[i], contents[i])
                    ON CONFLICT (tenant, key) DO UPDATE
                    SET value = EXCLUDED.value, version = EXCLUDED.version, expires = EXCLUDED.expires;
            ELSIF kinds[i] = 'remove' THEN
                DELETE FROM kv_entries WHERE tenant = owner AND key = names[i];
            ELSE
                SELECT value INTO seen FROM kv_entries
                    WHERE tenant = owner AND key = names[i] AND expires > statement_timestamp();
                IF seen IS DISTINCT FROM contents[i] THEN
                    RAISE EXCEPTION USING ERRCODE = 'OT001', MESSAGE = i;
                END IF;
            END IF;
        END LOOP;
    EXCEPTION WHEN SQLSTATE 'OT001' THEN  -- undoes the steps of this block
        DELETE FROM kv_entries WHERE tenant = owner AND key = ANY(names) AND expires = '-infinity';
        RETURN SQLERRM::integer;
    END;
    DELETE FROM kv_entries WHERE tenant = owner AND key = ANY(names) AND expires = '-infinity';
    RETURN 0;
END $$;
