-- Storing and reading in as few statements as the rules allow: decided as before, written by one statement. Of what one
-- audited commit costs, starting a statement is the largest part (ADR-031).

-- The event as it is kept: what the caller said, and what only the transaction knows.
CREATE FUNCTION lc_event(
    p_log text, p_event jsonb, p_outcome text, p_reason text, p_ids uuid[], p_counts jsonb, p_at timestamptz
) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN p_event || jsonb_build_object(
        'log_id', p_log,
        'occurred_at', lc_instant(p_at),
        'outcome', p_outcome,
        'reason', p_reason,
        'resource_ids', to_jsonb(p_ids),
        'counts', p_counts,
        'latency_us', coalesce((p_event->>'latency_us')::bigint, 0)
            + (extract(epoch FROM p_at - statement_timestamp()) * 1000000)::bigint
    );
END $$;

-- As before, with the event made in one place.
CREATE OR REPLACE FUNCTION lc_append(
    p_log text, p_event jsonb, p_outcome text, p_reason text, p_ids uuid[], p_counts jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_id uuid := (p_event->>'event_id')::uuid;
    v_event jsonb := lc_event(p_log, p_event, p_outcome, p_reason, p_ids, p_counts, v_now);
BEGIN
    IF p_log = '_system' THEN
        -- The request path cannot read this log, so a repeated attempt cannot know that its event is there already.
        INSERT INTO audit_events (event_id, log_id, occurred_at, event)
        VALUES (v_id, p_log, v_now, v_event) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    ELSE
        INSERT INTO audit_events (event_id, log_id, occurred_at, event) VALUES (v_id, p_log, v_now, v_event);
    END IF;
    INSERT INTO audit_pending (event_id, log_id) VALUES (v_id, p_log);
END $$;

-- Whether no meter of a tenant has a limit, as `lc_limits` would find.
CREATE FUNCTION lc_unlimited(p_plan text, p_limits jsonb) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_strip_nulls(p_limits) = '{}' AND NOT EXISTS (
        SELECT 1 FROM plan_limits WHERE plan = p_plan AND limit_value IS NOT NULL AND NOT p_limits ? meter
    );
END $$;

-- Accept memories: quota, ledgers, intake, idempotency and audit commit together or not at all.
-- Locks: the tenant's counter, then its subjects. Nothing is written before every decision is taken.
CREATE OR REPLACE FUNCTION lc_store(
    p_tenant text, p_ids uuid[], p_subjects uuid[], p_types text[], p_confidences float8[],
    p_created timestamptz[], p_expires timestamptz[], p_envelopes bytea[],
    p_key_tag bytea, p_fingerprint bytea, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_tenant text := set_config('luminescent.tenant', p_tenant, true);
    v_count bigint := cardinality(p_ids);
    v_entry uuid := (p_event->>'event_id')::uuid;
    v_people uuid[] := p_subjects;
    v_state text;
    v_placement text;
    v_unlimited boolean;
    v_gone boolean;
    v_most bigint;
    v_at timestamptz;
    v_now timestamptz;
    v_bytes bigint;
    v_deltas jsonb;
    v_subject_deltas jsonb;
    v_decided jsonb;
    v_answer jsonb;
    v_prior idempotency_keys%ROWTYPE;
    v_generation bigint;
    v_generations jsonb;
    v_counted bigint;
BEGIN
    IF v_count > 1 THEN
        v_people := ARRAY(SELECT DISTINCT x FROM unnest(p_subjects) AS x ORDER BY x);
    END IF;
    -- The event names whose memories these are, also where they are refused.
    p_event := p_event || CASE cardinality(v_people)
        WHEN 1 THEN jsonb_build_object('subject_id', v_people[1])
        ELSE jsonb_build_object('subject_ids', to_jsonb(v_people))
    END;
    IF p_retry THEN
        v_answer := lc_answered(p_tenant, p_event, 'stored');
        IF v_answer IS NOT NULL THEN
            RETURN v_answer;
        END IF;
    END IF;
    -- Held until commit: two writers must not both see the last unit. What is decided on is read afterwards.
    PERFORM 1 FROM usage_counters
      WHERE tenant_id = p_tenant AND meter = 'memories' AND period = '1970-01-01' AND shard = 0 FOR UPDATE;
    -- Who freezes or erases a person holds the tenant's lock, so this stays true until the commit.
    SELECT t.state, t.placement, lc_unlimited(t.plan, t.limits), s.gone, s.most
      INTO v_state, v_placement, v_unlimited, v_gone, v_most
      FROM tenants t, LATERAL (
          SELECT bool_or(state <> 'active') AS gone, max(memories) AS most
            FROM subjects WHERE subject_id = ANY(v_people) AND tenant_id = p_tenant
      ) AS s
     WHERE t.tenant_id = p_tenant;
    IF v_state IS DISTINCT FROM 'active' THEN
        RETURN lc_refuse(p_tenant, coalesce(v_state, 'unknown'), p_event);
    END IF;
    -- Before anything is answered from memory, too: of a person who is being erased nothing is told.
    IF v_gone THEN
        RETURN jsonb_build_object('outcome', 'subject_gone');
    END IF;
    IF p_key_tag IS NOT NULL THEN
        SELECT * INTO v_prior FROM idempotency_keys WHERE tenant_id = p_tenant AND key_tag = p_key_tag;
        IF FOUND THEN
            IF v_prior.fingerprint <> p_fingerprint THEN
                PERFORM lc_append(p_tenant, p_event, 'denied', 'idempotency_conflict', '{}', '{}');
                RETURN jsonb_build_object('outcome', 'conflict');
            END IF;
            PERFORM lc_append(p_tenant, p_event, 'allowed', 'repeated', v_prior.memory_ids, '{"stored": 0}');
            RETURN jsonb_build_object('outcome', 'stored', 'ids', v_prior.memory_ids, 'generations', '{}'::jsonb);
        END IF;
    END IF;
    v_at := lc_now();
    IF v_count = 1 THEN
        v_bytes := octet_length(p_envelopes[1]);
    ELSE
        v_bytes := (SELECT sum(octet_length(x)) FROM unnest(p_envelopes) AS x);
    END IF;
    v_deltas := jsonb_build_object('memories', v_count, 'writes', v_count, 'stored_bytes', v_bytes);
    IF cardinality(v_people) = 1 THEN
        v_subject_deltas := jsonb_build_object(v_people[1], v_count);
    ELSE
        SELECT jsonb_object_agg(x.id, x.n) INTO v_subject_deltas
          FROM (SELECT x AS id, count(*) AS n FROM unnest(p_subjects) AS x GROUP BY x) AS x;
    END IF;
    IF NOT v_unlimited THEN
        v_decided := lc_decide(p_tenant, v_deltas, v_subject_deltas, v_at, coalesce(v_most, 0) + v_count);
        IF v_decided->>'refusal' IS NOT NULL THEN
            RETURN lc_quota(p_tenant, p_event, v_decided->'refusal');
        END IF;
    END IF;
    IF v_count = 1 THEN
        v_now := clock_timestamp();
        v_answer := lc_event(p_tenant, p_event, 'allowed', NULL, p_ids, '{"stored": 1}', v_now);
        WITH person AS (
            INSERT INTO subjects AS s (subject_id, tenant_id, memories) VALUES (v_people[1], p_tenant, 1)
            ON CONFLICT (subject_id) DO UPDATE SET generation = s.generation + 1, memories = s.memories + 1
            RETURNING s.generation
        ), accepted AS (
            INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, expires_at, generation,
                                  stored_event)
            SELECT p_ids[1], p_tenant, v_people[1], v_bytes, p_created[1], p_expires[1], generation, v_entry
              FROM person
        ), waiting AS (
            INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type,
                                confidence, created_at, expires_at, envelope)
            SELECT p_ids[1], p_tenant, v_people[1], v_placement, 1, generation, p_types[1],
                   p_confidences[1], p_created[1], p_expires[1], p_envelopes[1]
              FROM person
        ), entry AS (
            INSERT INTO usage_events (event_id, tenant_id, operation, occurred_at, memories, stored_bytes, writes)
            VALUES (v_entry, p_tenant, p_event->>'action', v_at, 1, v_bytes, 1)
        ), event AS (
            INSERT INTO audit_events (event_id, log_id, occurred_at, event)
            VALUES (v_entry, p_tenant, v_now, v_answer)
        ), pending AS (
            INSERT INTO audit_pending (event_id, log_id) VALUES (v_entry, p_tenant)
        ), counted AS (
            UPDATE usage_counters SET used = used + CASE meter WHEN 'stored_bytes' THEN v_bytes ELSE 1 END
             WHERE tenant_id = p_tenant AND meter IN ('memories', 'stored_bytes', 'writes')
               AND period IN ('1970-01-01', lc_month(v_at)) AND shard = 0
            RETURNING 1
        )
        SELECT (SELECT generation FROM person), (SELECT count(*) FROM counted) INTO v_generation, v_counted;
        IF v_counted < 3 THEN
            -- The first of the month. Who counts writes holds the tenant's lock, so nobody else makes the row.
            INSERT INTO usage_counters (tenant_id, meter, period, shard, used)
            VALUES (p_tenant, 'writes', lc_month(v_at), 0, 1) ON CONFLICT DO NOTHING;
        END IF;
        v_generations := jsonb_build_object(v_people[1], v_generation);
    ELSE
        WITH named AS (
            INSERT INTO subjects AS s (subject_id, tenant_id, memories)
            SELECT x, p_tenant, (v_subject_deltas->>x::text)::bigint FROM unnest(v_people) AS x ORDER BY x
            ON CONFLICT (subject_id) DO UPDATE
               SET generation = s.generation + 1, memories = s.memories + excluded.memories
            RETURNING s.subject_id, s.generation
        )
        SELECT jsonb_object_agg(subject_id, generation) INTO v_generations FROM named;
        INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, expires_at, generation,
                              stored_event)
        SELECT r.id, p_tenant, r.subject, octet_length(r.envelope), r.created, r.expires,
               (v_generations->>r.subject::text)::bigint, v_entry
          FROM unnest(p_ids, p_subjects, p_created, p_expires, p_envelopes)
               AS r(id, subject, created, expires, envelope);
        INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type,
                            confidence, created_at, expires_at, envelope)
        SELECT r.id, p_tenant, r.subject, v_placement, 1, (v_generations->>r.subject::text)::bigint, r.type,
               r.confidence, r.created, r.expires, r.envelope
          FROM unnest(p_ids, p_subjects, p_types, p_confidences, p_created, p_expires, p_envelopes)
               AS r(id, subject, type, confidence, created, expires, envelope);
        PERFORM lc_book(p_tenant, v_entry, p_event->>'action', v_deltas, v_at);
        PERFORM lc_append(p_tenant, p_event, 'allowed', NULL, p_ids, jsonb_build_object('stored', v_count));
    END IF;
    IF p_key_tag IS NOT NULL THEN
        INSERT INTO idempotency_keys (tenant_id, key_tag, fingerprint, subject_ids, memory_ids)
        VALUES (p_tenant, p_key_tag, p_fingerprint, v_people, p_ids);
    END IF;
    IF v_decided IS NOT NULL THEN
        PERFORM lc_thresholds(p_tenant, p_event, v_deltas, v_subject_deltas, v_decided->'standing');
    END IF;
    RETURN jsonb_build_object(
        'outcome', 'stored', 'ids', p_ids, 'generations', v_generations,
        'balances', lc_after(v_decided->'standing', v_deltas)
    );
END $$;

-- Admit a read that was ranked at p_generation: stale if the subject has changed since, else charged and recorded with
-- the ids that the ledger still holds. p_floor, once the caller knows it, is a generation that holds everything
-- acknowledged before the call began; then later changes do not make it stale. The ledger's clock decides expiry.
CREATE OR REPLACE FUNCTION lc_read(
    p_tenant text, p_subject uuid, p_generation bigint, p_floor bigint, p_ids uuid[], p_include_invalid boolean,
    p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_tenant text := set_config('luminescent.tenant', p_tenant, true);
    v_entry uuid := (p_event->>'event_id')::uuid;
    v_state text;
    v_limited boolean;
    v_subject text;
    v_generation bigint;
    v_alive uuid[];
    v_seen jsonb;
    v_refusal jsonb;
    v_at timestamptz;
    v_now timestamptz;
    v_event jsonb;
    v_counted bigint;
BEGIN
    p_event := p_event || jsonb_build_object('subject_id', p_subject);
    IF p_retry THEN
        v_seen := lc_recorded(p_event);
        IF v_seen IS NOT NULL THEN
            RETURN lc_replayed(v_seen, 'allowed');
        END IF;
    END IF;
    -- One view of the tenant, the person and the memories. Each memory is looked up by its id: the planner, who cannot
    -- know how few they are, would read all of the person's.
    SELECT t.state,
           CASE WHEN t.limits ? 'reads' THEN t.limits->>'reads' IS NOT NULL
                ELSE EXISTS (SELECT 1 FROM plan_limits l
                              WHERE l.plan = t.plan AND l.meter = 'reads' AND l.limit_value IS NOT NULL) END,
           s.state, s.generation,
           ARRAY(
               SELECT x.id FROM unnest(p_ids) WITH ORDINALITY AS x(id, place), LATERAL (
                   SELECT 1 FROM memories m
                    WHERE m.memory_id = x.id AND m.tenant_id = p_tenant AND m.subject_id = p_subject
                      AND m.state <> 'deleted'
                      AND (p_include_invalid
                           OR (m.state = 'active' AND (m.expires_at IS NULL OR m.expires_at > now())))
                   OFFSET 0
               ) AS alive ORDER BY x.place
           )
      INTO v_state, v_limited, v_subject, v_generation, v_alive
      FROM tenants t LEFT JOIN subjects s ON s.subject_id = p_subject AND s.tenant_id = p_tenant
     WHERE t.tenant_id = p_tenant;
    IF v_state IS DISTINCT FROM 'active' THEN
        RETURN lc_refuse(p_tenant, coalesce(v_state, 'unknown'), p_event);
    END IF;
    IF p_subject IS NOT NULL THEN
        IF v_subject <> 'active' THEN
            RETURN jsonb_build_object('outcome', 'subject_gone');
        END IF;
        v_generation := coalesce(v_generation, 0);
        IF p_generation < coalesce(p_floor, v_generation) OR p_generation > v_generation THEN
            RETURN jsonb_build_object('outcome', 'stale', 'generation', v_generation);
        END IF;
    END IF;
    IF v_limited THEN
        v_refusal := lc_charge_reads(p_tenant, p_event, 1);
        IF v_refusal IS NOT NULL THEN
            RETURN lc_quota(p_tenant, p_event, v_refusal);
        END IF;
        PERFORM lc_append(
            p_tenant, p_event, 'allowed',
            CASE WHEN p_event->>'action' = 'memory.get' AND v_alive = '{}' THEN 'not_found' END,
            v_alive, jsonb_build_object('returned', cardinality(v_alive))
        );
        RETURN jsonb_build_object('outcome', 'allowed', 'ids', v_alive);
    END IF;
    v_at := lc_now();
    v_now := clock_timestamp();
    v_event := lc_event(
        p_tenant, p_event, 'allowed',
        CASE WHEN p_event->>'action' = 'memory.get' AND v_alive = '{}' THEN 'not_found' END,
        v_alive, jsonb_build_object('returned', cardinality(v_alive)), v_now
    );
    -- Readers of a tenant do not wait for each other: each backend counts in a shard of its own.
    WITH entry AS (
        INSERT INTO usage_events (event_id, tenant_id, operation, occurred_at, reads)
        VALUES (v_entry, p_tenant, p_event->>'action', v_at, 1)
    ), event AS (
        INSERT INTO audit_events (event_id, log_id, occurred_at, event)
        VALUES (v_entry, p_tenant, v_now, v_event)
    ), pending AS (
        INSERT INTO audit_pending (event_id, log_id) VALUES (v_entry, p_tenant)
    ), counted AS (
        UPDATE usage_counters SET used = used + 1
         WHERE tenant_id = p_tenant AND meter = 'reads' AND period = lc_month(v_at) AND shard = pg_backend_pid() % 16
        RETURNING 1
    )
    SELECT count(*) INTO v_counted FROM counted;
    IF v_counted = 0 THEN
        INSERT INTO usage_counters AS c (tenant_id, meter, period, shard, used)
        VALUES (p_tenant, 'reads', lc_month(v_at), pg_backend_pid() % 16, 1)
        ON CONFLICT (tenant_id, meter, period, shard) DO UPDATE SET used = c.used + excluded.used;
    END IF;
    RETURN jsonb_build_object('outcome', 'allowed', 'ids', v_alive);
END $$;

-- Delete softly and give the stock back. The row stays, unreadable by any operation, for the retention time.
CREATE OR REPLACE FUNCTION lc_delete(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_tenant text := set_config('luminescent.tenant', p_tenant, true);
    v_entry uuid := (p_event->>'event_id')::uuid;
    v_state text;
    v_subject uuid;
    v_size bigint;
    v_revision integer;
    v_at timestamptz;
    v_now timestamptz;
    v_generation bigint;
    v_answer jsonb;
BEGIN
    IF p_retry THEN
        v_answer := lc_answered(p_tenant, p_event, 'deleted');
        IF v_answer IS NOT NULL THEN
            RETURN v_answer;
        END IF;
    END IF;
    PERFORM 1 FROM usage_counters
      WHERE tenant_id = p_tenant AND meter = 'memories' AND period = '1970-01-01' AND shard = 0 FOR UPDATE;
    -- Who freezes or erases a person, and who changes a memory, holds the tenant's lock: this stays true until the commit.
    SELECT t.state, m.subject_id, m.size_bytes, m.revision INTO v_state, v_subject, v_size, v_revision
      FROM tenants t LEFT JOIN (
          memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.tenant_id = m.tenant_id AND s.state = 'active'
      ) ON m.memory_id = p_memory AND m.tenant_id = p_tenant AND m.state = 'active'
          AND (m.expires_at IS NULL OR m.expires_at > now())
          AND NOT (p_restricted AND m.subject_id IS DISTINCT FROM p_only_subject)
     WHERE t.tenant_id = p_tenant;
    IF v_state IS DISTINCT FROM 'active' THEN
        RETURN lc_refuse(p_tenant, coalesce(v_state, 'unknown'), p_event);
    END IF;
    IF v_subject IS NULL THEN
        RETURN lc_absent(p_tenant, p_event, '{"deleted": 0}');
    END IF;
    v_at := lc_now();
    v_now := clock_timestamp();
    v_answer := lc_event(
        p_tenant, p_event || jsonb_build_object('subject_id', v_subject), 'allowed', NULL, ARRAY[p_memory],
        '{"deleted": 1}', v_now
    );
    WITH person AS (
        UPDATE subjects SET generation = generation + 1, memories = memories - 1
         WHERE subject_id = v_subject AND tenant_id = p_tenant
        RETURNING generation
    ), gone AS (
        UPDATE memories SET state = 'deleted', deleted_at = v_now, generation = (SELECT generation FROM person)
         WHERE memory_id = p_memory
    ), change AS (
        INSERT INTO memory_changes (memory_id, event_id, tenant_id, subject_id, revision, change)
        VALUES (p_memory, v_entry, p_tenant, v_subject, v_revision, 'deleted')
    ), entry AS (
        INSERT INTO usage_events (event_id, tenant_id, operation, occurred_at, memories, stored_bytes)
        VALUES (v_entry, p_tenant, p_event->>'action', v_at, -1, -v_size)
    ), event AS (
        INSERT INTO audit_events (event_id, log_id, occurred_at, event) VALUES (v_entry, p_tenant, v_now, v_answer)
    ), pending AS (
        INSERT INTO audit_pending (event_id, log_id) VALUES (v_entry, p_tenant)
    ), counted AS (
        UPDATE usage_counters SET used = used - CASE meter WHEN 'stored_bytes' THEN v_size ELSE 1 END
         WHERE tenant_id = p_tenant AND meter IN ('memories', 'stored_bytes') AND period = '1970-01-01' AND shard = 0
    )
    SELECT generation INTO v_generation FROM person;
    RETURN jsonb_build_object('outcome', 'deleted', 'subject_id', v_subject, 'generation', v_generation);
END $$;
