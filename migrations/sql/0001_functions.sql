-- Server functions of the request path. Each is one statement of one transaction, so one round trip decides, records
-- and commits. All are SECURITY INVOKER: row-level security applies to what they touch, and each names its tenant
-- before its first query (a set_config inside the statement it should protect would come too late).
--
-- Conventions: p_event is the audit event as the caller knows it (event_id, actor, action, …); the function adds the
-- log, the time, the outcome and the ids. p_retry says that an earlier attempt may have committed: then the recorded
-- event is the answer, and nothing happens twice.

CREATE FUNCTION lc_instant(p_at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

CREATE FUNCTION lc_append(
    p_log text, p_event jsonb, p_outcome text, p_reason text, p_ids uuid[], p_counts jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_server_us bigint := (extract(epoch FROM v_now - statement_timestamp()) * 1000000)::bigint;
    v_event jsonb := p_event || jsonb_build_object(
        'log_id', p_log,
        'occurred_at', lc_instant(v_now),
        'outcome', p_outcome,
        'reason', p_reason,
        'resource_ids', to_jsonb(p_ids),
        'counts', p_counts,
        'latency_us', coalesce((p_event->>'latency_us')::bigint, 0) + v_server_us
    );
BEGIN
    IF p_log = '_system' THEN
        -- The request path cannot read this log, so a repeated attempt cannot know that its event is there already.
        INSERT INTO audit_events (event_id, log_id, occurred_at, event)
        VALUES ((p_event->>'event_id')::uuid, p_log, v_now, v_event) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO audit_events (event_id, log_id, occurred_at, event)
        VALUES ((p_event->>'event_id')::uuid, p_log, v_now, v_event);
    END IF;
END $$;

-- What an earlier attempt of the same operation recorded, or null.
CREATE FUNCTION lc_recorded(p_event jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT event FROM audit_events WHERE event_id = (p_event->>'event_id')::uuid
$$;

-- The answer that the earlier attempt would have given: its event says what was decided.
CREATE FUNCTION lc_replayed(p_seen jsonb, p_success text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN p_seen->>'outcome' = 'allowed' THEN
            jsonb_build_object('outcome', p_success, 'ids', p_seen->'resource_ids', 'generations', '{}'::jsonb)
        WHEN p_seen->>'reason' = 'quota_exceeded' THEN
            jsonb_build_object('outcome', 'quota', 'meter', 'memories') || (p_seen->'counts')
        WHEN p_seen->>'reason' = 'idempotency_conflict' THEN jsonb_build_object('outcome', 'conflict')
        ELSE jsonb_build_object('outcome', 'refused', 'reason', p_seen->>'reason')
    END
$$;

-- Name the tenant for row-level security and tell its state: active, suspended, closed, or unknown.
CREATE FUNCTION lc_enter(p_tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
BEGIN
    PERFORM set_config('luminescent.tenant', p_tenant, true);
    SELECT state INTO v_state FROM tenants WHERE tenant_id = p_tenant;
    RETURN coalesce(v_state, 'unknown');
END $$;

-- Record a refusal at the door: in the tenant's log if there is such a tenant, else in the system log.
CREATE FUNCTION lc_refuse(p_tenant text, p_state text, p_event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_reason text := CASE p_state WHEN 'unknown' THEN 'unknown_tenant' ELSE 'tenant_' || p_state END;
BEGIN
    PERFORM lc_append(
        CASE p_state WHEN 'unknown' THEN '_system' ELSE p_tenant END,
        CASE p_state WHEN 'unknown' THEN p_event - 'subject_ids' || '{"subject_id": null}' ELSE p_event END,
        'denied', v_reason, '{}', '{}'
    );
    RETURN jsonb_build_object('outcome', 'refused', 'reason', v_reason);
END $$;

-- Append an event that no other change belongs to. An operation has one event: what it recorded first stays.
CREATE FUNCTION lc_record(
    p_tenant text, p_event jsonb, p_outcome text, p_reason text, p_ids uuid[], p_counts jsonb
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_log text := p_tenant;
BEGIN
    IF p_tenant <> '_system' AND lc_enter(p_tenant) = 'unknown' THEN
        v_log := '_system';
    END IF;
    IF lc_recorded(p_event) IS NOT NULL THEN
        RETURN v_log;
    END IF;
    PERFORM lc_append(v_log, p_event, p_outcome, p_reason, p_ids, p_counts);
    RETURN v_log;
END $$;

-- Accept memories: quota, ledger, intake, idempotency and audit commit together or not at all.
-- Locks: the tenant's counter, then its subjects. Nothing is written before every decision is taken.
CREATE FUNCTION lc_store(
    p_tenant text, p_ids uuid[], p_subjects uuid[], p_types text[], p_confidences float8[],
    p_created timestamptz[], p_expires timestamptz[], p_envelopes bytea[],
    p_key_tag bytea, p_fingerprint bytea, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint := cardinality(p_ids);
    v_state text := lc_enter(p_tenant);
    v_placement text;
    v_limit bigint;
    v_used bigint;
    v_seen jsonb;
    v_prior idempotency_keys%ROWTYPE;
    v_generations jsonb;
    v_people uuid[] := ARRAY(SELECT DISTINCT x FROM unnest(p_subjects) AS x ORDER BY x);
BEGIN
    -- The event names whose memories these are, also where they are refused.
    p_event := p_event || CASE cardinality(v_people)
        WHEN 1 THEN jsonb_build_object('subject_id', v_people[1])
        ELSE jsonb_build_object('subject_ids', to_jsonb(v_people))
    END;
    IF p_retry THEN
        -- The earlier attempt may still run: its end is waited for before its record is looked for.
        PERFORM 1 FROM usage_counters WHERE tenant_id = p_tenant AND meter = 'memories' FOR UPDATE;
        v_seen := lc_recorded(p_event);
        IF v_seen IS NOT NULL THEN
            RETURN lc_replayed(v_seen, 'stored');
        END IF;
    END IF;
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    -- Hold the counter's row lock until commit: two writers must not both see the last unit.
    SELECT used INTO STRICT v_used FROM usage_counters
     WHERE tenant_id = p_tenant AND meter = 'memories' FOR UPDATE;
    SELECT t.placement, CASE WHEN t.limits ? 'memories' THEN (t.limits->>'memories')::bigint ELSE l.limit_value END
      INTO STRICT v_placement, v_limit
      FROM tenants t LEFT JOIN plan_limits l ON l.plan = t.plan AND l.meter = 'memories'
     WHERE t.tenant_id = p_tenant;
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
    IF v_limit IS NOT NULL AND v_used + v_count > v_limit THEN
        PERFORM lc_append(
            p_tenant, p_event, 'denied', 'quota_exceeded', '{}',
            jsonb_build_object('requested', v_count, 'used', v_used, 'limit', v_limit)
        );
        RETURN jsonb_build_object('outcome', 'quota', 'meter', 'memories', 'limit', v_limit, 'used', v_used);
    END IF;
    WITH named AS (
        INSERT INTO subjects AS s (subject_id, tenant_id)
        SELECT x, p_tenant FROM unnest(v_people) AS x ORDER BY x
        ON CONFLICT (subject_id) DO UPDATE SET generation = s.generation + 1 WHERE s.state = 'active'
        RETURNING s.subject_id, s.generation
    )
    SELECT jsonb_object_agg(subject_id, generation) INTO v_generations FROM named;
    IF EXISTS (SELECT 1 FROM unnest(v_people) AS x WHERE NOT coalesce(v_generations, '{}') ? x::text) THEN
        -- A generation counted up without a change behind it is harmless: readers load nothing new.
        RETURN jsonb_build_object('outcome', 'subject_gone');
    END IF;
    INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, expires_at, generation)
    SELECT r.id, p_tenant, r.subject, octet_length(r.envelope), r.created, r.expires,
           (v_generations->>r.subject::text)::bigint
      FROM unnest(p_ids, p_subjects, p_created, p_expires, p_envelopes)
           AS r(id, subject, created, expires, envelope);
    INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type, confidence,
                        created_at, expires_at, envelope)
    SELECT r.id, p_tenant, r.subject, v_placement, 1, (v_generations->>r.subject::text)::bigint, r.type,
           r.confidence, r.created, r.expires, r.envelope
      FROM unnest(p_ids, p_subjects, p_types, p_confidences, p_created, p_expires, p_envelopes)
           AS r(id, subject, type, confidence, created, expires, envelope);
    UPDATE usage_counters SET used = used + v_count WHERE tenant_id = p_tenant AND meter = 'memories';
    IF p_key_tag IS NOT NULL THEN
        INSERT INTO idempotency_keys (tenant_id, key_tag, fingerprint, subject_ids, memory_ids)
        VALUES (p_tenant, p_key_tag, p_fingerprint, v_people, p_ids);
    END IF;
    PERFORM lc_append(p_tenant, p_event, 'allowed', NULL, p_ids, jsonb_build_object('stored', v_count));
    RETURN jsonb_build_object(
        'outcome', 'stored', 'ids', p_ids, 'generations', v_generations, 'used', v_used + v_count, 'limit', v_limit
    );
END $$;

-- Admit a read that was ranked at p_generation: stale if the subject has changed since, else recorded with the ids
-- that the ledger still holds. p_floor, once the caller knows it, is a generation that holds everything acknowledged
-- before the call began; then later changes do not make it stale. The ledger's clock decides expiry.
CREATE FUNCTION lc_read(
    p_tenant text, p_subject uuid, p_generation bigint, p_floor bigint, p_ids uuid[], p_include_invalid boolean,
    p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_subject text;
    v_generation bigint := 0;
    v_alive uuid[] := '{}';
    v_seen jsonb;
BEGIN
    p_event := p_event || jsonb_build_object('subject_id', p_subject);
    IF p_retry THEN
        v_seen := lc_recorded(p_event);
        IF v_seen IS NOT NULL THEN
            RETURN lc_replayed(v_seen, 'allowed');
        END IF;
    END IF;
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    IF p_subject IS NOT NULL THEN
        SELECT state, generation INTO v_subject, v_generation
          FROM subjects WHERE subject_id = p_subject AND tenant_id = p_tenant;
        IF v_subject IS DISTINCT FROM 'active' THEN
            IF v_subject IS NOT NULL THEN
                RETURN jsonb_build_object('outcome', 'subject_gone');
            END IF;
            v_generation := 0;
        END IF;
        IF p_generation < coalesce(p_floor, v_generation) OR p_generation > v_generation THEN
            RETURN jsonb_build_object('outcome', 'stale', 'generation', v_generation);
        END IF;
        SELECT coalesce(array_agg(m.memory_id ORDER BY x.place), '{}') INTO v_alive
          FROM unnest(p_ids) WITH ORDINALITY AS x(id, place)
          JOIN memories m ON m.memory_id = x.id
         WHERE m.tenant_id = p_tenant AND m.subject_id = p_subject AND m.state <> 'deleted'
           AND (p_include_invalid OR (m.state = 'active' AND (m.expires_at IS NULL OR m.expires_at > now())));
    END IF;
    PERFORM lc_append(
        p_tenant, p_event, 'allowed',
        CASE WHEN p_event->>'action' = 'memory.get' AND v_alive = '{}' THEN 'not_found' END,
        v_alive, jsonb_build_object('returned', cardinality(v_alive))
    );
    RETURN jsonb_build_object('outcome', 'allowed', 'ids', v_alive);
END $$;

-- Whose memory this is. A memory that the caller may not know of and one that is not there give the same answer.
CREATE FUNCTION lc_locate(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_subject uuid;
BEGIN
    IF v_state = 'active' THEN
        SELECT subject_id INTO v_subject FROM memories
         WHERE memory_id = p_memory AND tenant_id = p_tenant AND state = 'active'
           AND (expires_at IS NULL OR expires_at > now())
           AND (NOT p_restricted OR subject_id = p_only_subject);
    END IF;
    RETURN jsonb_build_object('state', v_state, 'subject_id', v_subject);
END $$;

-- Delete softly and give the stock back. The row stays, unreadable by any operation, for the retention time.
CREATE FUNCTION lc_delete(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_seen jsonb;
    v_subject uuid;
    v_generation bigint;
BEGIN
    IF p_retry THEN
        -- The earlier attempt may still run: its end is waited for before its record is looked for.
        PERFORM 1 FROM usage_counters WHERE tenant_id = p_tenant AND meter = 'memories' FOR UPDATE;
        v_seen := lc_recorded(p_event);
        IF v_seen IS NOT NULL THEN
            RETURN lc_replayed(v_seen, CASE WHEN v_seen->>'reason' = 'not_found' THEN 'absent' ELSE 'deleted' END);
        END IF;
    END IF;
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    PERFORM 1 FROM usage_counters WHERE tenant_id = p_tenant AND meter = 'memories' FOR UPDATE;
    SELECT subject_id INTO v_subject FROM memories
     WHERE memory_id = p_memory AND tenant_id = p_tenant AND state = 'active'
       AND (expires_at IS NULL OR expires_at > now());
    IF v_subject IS NOT NULL AND NOT (p_restricted AND v_subject IS DISTINCT FROM p_only_subject) THEN
        UPDATE subjects SET generation = generation + 1
         WHERE subject_id = v_subject AND tenant_id = p_tenant AND state = 'active'
        RETURNING generation INTO v_generation;
    END IF;
    IF v_generation IS NULL THEN
        PERFORM lc_append(p_tenant, p_event, 'allowed', 'not_found', '{}', '{"deleted": 0}');
        RETURN jsonb_build_object('outcome', 'absent');
    END IF;
    UPDATE memories SET state = 'deleted', deleted_at = clock_timestamp(), generation = v_generation
     WHERE memory_id = p_memory;
    UPDATE usage_counters SET used = used - 1 WHERE tenant_id = p_tenant AND meter = 'memories';
    PERFORM lc_append(
        p_tenant, p_event || jsonb_build_object('subject_id', v_subject), 'allowed', NULL, ARRAY[p_memory],
        '{"deleted": 1}'
    );
    RETURN jsonb_build_object('outcome', 'deleted', 'subject_id', v_subject, 'generation', v_generation);
END $$;

-- Take memories whose time is over out of the stock, at most p_batch of them; returns how many.
CREATE FUNCTION lc_expire(p_batch integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_tenant text;
    v_moved integer;
    v_total integer := 0;
BEGIN
    FOR v_tenant IN
        SELECT DISTINCT tenant_id FROM (
            SELECT tenant_id FROM memories
             WHERE state = 'active' AND expires_at IS NOT NULL AND expires_at <= now()
             ORDER BY expires_at LIMIT p_batch
        ) AS due ORDER BY tenant_id
    LOOP
        PERFORM 1 FROM usage_counters WHERE tenant_id = v_tenant AND meter = 'memories' FOR UPDATE;
        UPDATE memories SET state = 'expired' WHERE memory_id IN (
            SELECT memory_id FROM memories
             WHERE tenant_id = v_tenant AND state = 'active' AND expires_at IS NOT NULL AND expires_at <= now()
             LIMIT p_batch
        );
        GET DIAGNOSTICS v_moved = ROW_COUNT;
        UPDATE usage_counters SET used = used - v_moved WHERE tenant_id = v_tenant AND meter = 'memories';
        v_total := v_total + v_moved;
    END LOOP;
    RETURN v_total;
END $$;
