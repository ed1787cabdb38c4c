-- The schema of examples/postgresql/sagas.py. Histories and payloads are the text that was written: json would keep it too, but
-- parse it each time, and jsonb would change it.

CREATE TABLE sagas (
    tenant         bytea NOT NULL,
    saga_id        text COLLATE "C" NOT NULL,
    saga_type      text COLLATE "C" NOT NULL,
    correlation_id text COLLATE "C",
    status         text COLLATE "C" NOT NULL,
    current_step   bigint NOT NULL,
    history        text NOT NULL,
    payload        text NOT NULL,
    version        bigint NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    updated_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    worker         text COLLATE "C",
    leased_until   timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant, saga_id)
);

-- Among the sagas that are not terminal one of a type has a correlation; of those that have none there may be any number.
CREATE UNIQUE INDEX sagas_by_correlation ON sagas (tenant, saga_type, correlation_id)
    WHERE correlation_id IS NOT NULL AND status IN ('RUNNING', 'COMPENSATING');

-- What is listed and claimed, oldest update first; sagas that have ended well are not in it, and they become most of them.
CREATE INDEX sagas_by_update ON sagas (tenant, updated_at, saga_id) WHERE status IN ('RUNNING', 'COMPENSATING', 'FAILED');
