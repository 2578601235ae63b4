-- A frozen person is refused before an idempotency key answers: what it stood for is being erased.

-- Accept memories: quota, ledgers, intake, idempotency and audit commit together or not at all.
-- Locks: the tenant's counter, then its subjects. Nothing is written before every decision is taken.
CREATE OR REPLACE FUNCTION lc_store(
    p_tenant text, p_ids uuid[], p_subjects uuid[], p_types text[], p_confidences float8[],
    p_created timestamptz[], p_expires timestamptz[], p_envelopes bytea[],
    p_key_tag bytea, p_fingerprint bytea, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint := cardinality(p_ids);
    v_state text := lc_enter(p_tenant);
    v_at timestamptz;
    v_deltas jsonb;
    v_subject_deltas jsonb;
    v_decided jsonb;
    v_gone boolean;
    v_most bigint;
    v_answer jsonb;
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
        v_answer := lc_answered(p_tenant, p_event, 'stored');
        IF v_answer IS NOT NULL THEN
            RETURN v_answer;
        END IF;
    END IF;
    -- Held until commit: two writers must not both see the last unit.
    v_state := lc_lock(p_tenant);
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    -- Before anything is answered from memory, too: of a person who is being erased nothing is told.
    -- Who freezes or erases a person holds the tenant's lock, so this stays true until the commit.
    SELECT bool_or(state <> 'active'), max(memories) INTO v_gone, v_most
      FROM subjects WHERE subject_id = ANY(v_people) AND tenant_id = p_tenant;
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
    v_deltas := jsonb_build_object(
        'memories', v_count, 'writes', v_count,
        'stored_bytes', (SELECT sum(octet_length(x)) FROM unnest(p_envelopes) AS x)
    );
    IF cardinality(v_people) = 1 THEN
        v_subject_deltas := jsonb_build_object(v_people[1], v_count);
    ELSE
        SELECT jsonb_object_agg(x.id, x.n) INTO v_subject_deltas
          FROM (SELECT x AS id, count(*) AS n FROM unnest(p_subjects) AS x GROUP BY x) AS x;
    END IF;
    v_decided := lc_decide(p_tenant, v_deltas, v_subject_deltas, v_at, coalesce(v_most, 0) + v_count);
    IF v_decided->>'refusal' IS NOT NULL THEN
        RETURN lc_quota(p_tenant, p_event, v_decided->'refusal');
    END IF;
    WITH named AS (
        INSERT INTO subjects AS s (subject_id, tenant_id, memories)
        SELECT x, p_tenant, (v_subject_deltas->>x::text)::bigint FROM unnest(v_people) AS x ORDER BY x
        ON CONFLICT (subject_id) DO UPDATE SET generation = s.generation + 1, memories = s.memories + excluded.memories
        RETURNING s.subject_id, s.generation
    )
    SELECT jsonb_object_agg(subject_id, generation) INTO v_generations FROM named;
    INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, expires_at, generation,
                          stored_event)
    SELECT r.id, p_tenant, r.subject, octet_length(r.envelope), r.created, r.expires,
           (v_generations->>r.subject::text)::bigint, (p_event->>'event_id')::uuid
      FROM unnest(p_ids, p_subjects, p_created, p_expires, p_envelopes)
           AS r(id, subject, created, expires, envelope);
    INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type, confidence,
                        created_at, expires_at, envelope)
    SELECT r.id, p_tenant, r.subject, t.placement, 1, (v_generations->>r.subject::text)::bigint, r.type,
           r.confidence, r.created, r.expires, r.envelope
      FROM tenants t, unnest(p_ids, p_subjects, p_types, p_confidences, p_created, p_expires, p_envelopes)
           AS r(id, subject, type, confidence, created, expires, envelope)
     WHERE t.tenant_id = p_tenant;
    IF p_key_tag IS NOT NULL THEN
        INSERT INTO idempotency_keys (tenant_id, key_tag, fingerprint, subject_ids, memory_ids)
        VALUES (p_tenant, p_key_tag, p_fingerprint, v_people, p_ids);
    END IF;
    PERFORM lc_book(p_tenant, (p_event->>'event_id')::uuid, p_event->>'action', v_deltas, v_at);
    PERFORM lc_append(p_tenant, p_event, 'allowed', NULL, p_ids, jsonb_build_object('stored', v_count));
    PERFORM lc_thresholds(p_tenant, p_event, v_deltas, v_subject_deltas, v_decided->'standing');
    RETURN jsonb_build_object(
        'outcome', 'stored', 'ids', p_ids, 'generations', v_generations,
        'balances', lc_after(v_decided->'standing', v_deltas)
    );
END $$;

-- Accept a memory that takes the place of another one of the same subject. The old one leaves the stock as the new one
-- comes, so only bytes and writes can refuse it.
CREATE OR REPLACE FUNCTION lc_supersede(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean, p_id uuid, p_subject uuid,
    p_type text, p_confidence float8, p_created timestamptz, p_expires timestamptz, p_envelope bytea,
    p_key_tag bytea, p_fingerprint bytea, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_answer jsonb;
    v_prior idempotency_keys%ROWTYPE;
    v_memory memories%ROWTYPE;
    v_generation bigint;
BEGIN
    IF p_retry THEN
        v_answer := lc_answered(p_tenant, p_event, 'superseded');
        IF v_answer IS NOT NULL THEN
            RETURN v_answer;
        END IF;
    END IF;
    v_state := lc_lock(p_tenant);
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    IF EXISTS (SELECT 1 FROM subjects WHERE subject_id = p_subject AND tenant_id = p_tenant AND state <> 'active') THEN
        RETURN lc_absent(p_tenant, p_event, '{"stored": 0, "superseded": 0}');
    END IF;
    IF p_key_tag IS NOT NULL THEN
        SELECT * INTO v_prior FROM idempotency_keys WHERE tenant_id = p_tenant AND key_tag = p_key_tag;
        IF FOUND AND v_prior.fingerprint <> p_fingerprint THEN
            PERFORM lc_append(p_tenant, p_event, 'denied', 'idempotency_conflict', '{}', '{}');
            RETURN '{"outcome": "conflict"}';
        ELSIF FOUND THEN
            PERFORM lc_append(
                p_tenant, p_event || jsonb_build_object('subject_id', p_subject), 'allowed', 'repeated',
                v_prior.memory_ids, '{"stored": 0}'
            );
            RETURN jsonb_build_object('outcome', 'superseded', 'ids', v_prior.memory_ids);
        END IF;
    END IF;
    SELECT m.* INTO v_memory FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active'
     WHERE m.memory_id = p_memory AND m.tenant_id = p_tenant AND m.state = 'active' AND m.subject_id = p_subject
       AND (m.expires_at IS NULL OR m.expires_at > now()) AND (NOT p_restricted OR m.subject_id = p_only_subject);
    IF NOT FOUND THEN
        RETURN lc_absent(p_tenant, p_event, '{"stored": 0, "superseded": 0}');
    END IF;
    p_event := p_event || jsonb_build_object('subject_id', p_subject);
    v_answer := lc_charge(
        p_tenant, p_event,
        jsonb_build_object('stored_bytes', octet_length(p_envelope) - v_memory.size_bytes, 'writes', 1), NULL
    );
    IF v_answer IS NOT NULL THEN
        RETURN lc_quota(p_tenant, p_event, v_answer);
    END IF;
    UPDATE subjects SET generation = generation + 1 WHERE subject_id = p_subject AND tenant_id = p_tenant
    RETURNING generation INTO v_generation;
    INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, expires_at, generation, stored_event)
    VALUES (p_id, p_tenant, p_subject, octet_length(p_envelope), p_created, p_expires, v_generation,
            (p_event->>'event_id')::uuid);
    INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type, confidence,
                        created_at, expires_at, envelope)
    SELECT p_id, p_tenant, p_subject, t.placement, 1, v_generation, p_type, p_confidence, p_created, p_expires,
           p_envelope
      FROM tenants t WHERE t.tenant_id = p_tenant;
    UPDATE memories
       SET state = 'superseded', superseded_by = p_id, superseded_at = clock_timestamp(), generation = v_generation
     WHERE memory_id = p_memory;
    IF p_key_tag IS NOT NULL THEN
        INSERT INTO idempotency_keys (tenant_id, key_tag, fingerprint, subject_ids, memory_ids)
        VALUES (p_tenant, p_key_tag, p_fingerprint, ARRAY[p_subject], ARRAY[p_id]);
    END IF;
    PERFORM lc_note(v_memory, v_memory.revision, 'superseded', p_event);
    PERFORM lc_append(
        p_tenant, p_event, 'allowed', NULL, ARRAY[p_id, p_memory], '{"stored": 1, "superseded": 1}'
    );
    RETURN jsonb_build_object('outcome', 'superseded', 'ids', ARRAY[p_id], 'generation', v_generation);
END $$;
