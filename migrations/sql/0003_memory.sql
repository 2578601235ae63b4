-- Changing memories, following them, and bringing them back. The conventions and the order of locks are those of
-- revision 0001: the tenant, then the subject; nothing is written before every decision is taken.

-- Note a change in a memory's history. Who did it is the event's to say.
CREATE FUNCTION lc_note(p_memory memories, p_revision integer, p_change text, p_event jsonb)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO memory_changes (memory_id, event_id, tenant_id, subject_id, revision, change)
    VALUES (p_memory.memory_id, (p_event->>'event_id')::uuid, p_memory.tenant_id, p_memory.subject_id, p_revision,
            p_change)
$$;

-- Record that there is no such memory for this caller: absent, foreign and forbidden leave the same event.
CREATE FUNCTION lc_absent(p_tenant text, p_event jsonb, p_counts jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lc_append(p_tenant, p_event, 'allowed', 'not_found', '{}', p_counts);
    RETURN '{"outcome": "absent"}';
END $$;

-- What an earlier attempt of a change answered, from its event; null if there was none. Takes the tenant's lock: the
-- earlier attempt may still run, and its end is waited for before its record is looked for.
CREATE FUNCTION lc_answered(p_tenant text, p_event jsonb, p_success text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_seen jsonb;
BEGIN
    PERFORM lc_lock(p_tenant);
    v_seen := lc_recorded(p_event);
    RETURN CASE
        WHEN v_seen IS NULL THEN NULL
        WHEN v_seen->>'reason' = 'not_found' THEN '{"outcome": "absent"}'
        WHEN v_seen->>'reason' = 'revision_conflict' THEN '{"outcome": "revision_conflict"}' || (v_seen->'details')
        ELSE lc_replayed(v_seen, p_success) || coalesce(v_seen->'details', '{}')
    END;
END $$;

-- Whose memory this is, as of which generation. A memory that the caller may not know of and one that is not there
-- give the same answer.
CREATE OR REPLACE FUNCTION lc_locate(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_subject uuid;
    v_generation bigint;
BEGIN
    IF v_state = 'active' THEN
        SELECT m.subject_id, s.generation INTO v_subject, v_generation
          FROM memories m JOIN subjects s ON s.subject_id = m.subject_id
         WHERE m.memory_id = p_memory AND m.tenant_id = p_tenant AND m.state = 'active'
           AND (m.expires_at IS NULL OR m.expires_at > now())
           AND (NOT p_restricted OR m.subject_id = p_only_subject);
    END IF;
    RETURN jsonb_build_object('state', v_state, 'subject_id', v_subject, 'generation', v_generation);
END $$;

-- Replace a memory by its next revision, which was made from p_base: stale if that is not the present one any more.
-- p_expected is the revision that the caller insists on; null insists on none.
CREATE FUNCTION lc_update(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean, p_base integer, p_expected integer,
    p_type text, p_confidence float8, p_created timestamptz, p_expires timestamptz, p_envelope bytea,
    p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_answer jsonb;
    v_memory memories%ROWTYPE;
    v_generation bigint;
BEGIN
    IF p_retry THEN
        v_answer := lc_answered(p_tenant, p_event, 'updated');
        IF v_answer IS NOT NULL THEN
            RETURN v_answer;
        END IF;
    END IF;
    v_state := lc_lock(p_tenant);
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    SELECT m.* INTO v_memory FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active'
     WHERE m.memory_id = p_memory AND m.tenant_id = p_tenant AND m.state = 'active'
       AND (m.expires_at IS NULL OR m.expires_at > now()) AND (NOT p_restricted OR m.subject_id = p_only_subject);
    IF NOT FOUND THEN
        RETURN lc_absent(p_tenant, p_event, '{"updated": 0}');
    END IF;
    p_event := p_event || jsonb_build_object('subject_id', v_memory.subject_id);
    IF p_expected <> v_memory.revision THEN
        v_answer := jsonb_build_object('expected', p_expected, 'current', v_memory.revision);
        PERFORM lc_append(
            p_tenant, p_event || jsonb_build_object('details', v_answer), 'denied', 'revision_conflict', '{}', '{}'
        );
        RETURN '{"outcome": "revision_conflict"}' || v_answer;
    END IF;
    SELECT generation INTO v_generation FROM subjects WHERE subject_id = v_memory.subject_id AND tenant_id = p_tenant;
    IF p_base <> v_memory.revision THEN
        RETURN jsonb_build_object('outcome', 'stale', 'generation', v_generation);
    END IF;
    v_answer := lc_charge(
        p_tenant, p_event,
        jsonb_build_object('stored_bytes', octet_length(p_envelope) - v_memory.size_bytes, 'writes', 1), NULL
    );
    IF v_answer IS NOT NULL THEN
        RETURN lc_quota(p_tenant, p_event, v_answer);
    END IF;
    UPDATE subjects SET generation = generation + 1 WHERE subject_id = v_memory.subject_id AND tenant_id = p_tenant
    RETURNING generation INTO v_generation;
    UPDATE memories
       SET revision = p_base + 1, size_bytes = octet_length(p_envelope), created_at = p_created,
           expires_at = p_expires, generation = v_generation
     WHERE memory_id = p_memory;
    -- At most one row of a memory waits: a revision that was never materialized is never seen again.
    INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type, confidence,
                        created_at, expires_at, envelope)
    SELECT p_memory, p_tenant, v_memory.subject_id, t.placement, p_base + 1, v_generation, p_type, p_confidence,
           p_created, p_expires, p_envelope
      FROM tenants t WHERE t.tenant_id = p_tenant
    ON CONFLICT (memory_id) DO UPDATE
       SET placement = excluded.placement, revision = excluded.revision, generation = excluded.generation,
           memory_type = excluded.memory_type, confidence = excluded.confidence, created_at = excluded.created_at,
           expires_at = excluded.expires_at, envelope = excluded.envelope;
    PERFORM lc_note(v_memory, p_base + 1, 'updated', p_event);
    v_answer := jsonb_build_object('revision', p_base + 1);
    PERFORM lc_append(
        p_tenant, p_event || jsonb_build_object('details', v_answer), 'allowed', NULL, ARRAY[p_memory], '{"updated": 1}'
    );
    RETURN v_answer || jsonb_build_object(
        'outcome', 'updated', 'subject_id', v_memory.subject_id, 'generation', v_generation
    );
END $$;

-- Accept a memory that takes the place of another one of the same subject. The old one leaves the stock as the new one
-- comes, so only bytes and writes can refuse it.
CREATE FUNCTION lc_supersede(
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

-- Bring back what was deleted at most p_retention_s seconds ago, and charge its stock again.
CREATE FUNCTION lc_undelete(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean, p_retention_s float8,
    p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_answer jsonb;
    v_memory memories%ROWTYPE;
    v_generation bigint;
BEGIN
    IF p_retry THEN
        v_answer := lc_answered(p_tenant, p_event, 'undeleted');
        IF v_answer IS NOT NULL THEN
            RETURN v_answer;
        END IF;
    END IF;
    v_state := lc_lock(p_tenant);
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    SELECT m.* INTO v_memory FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active'
     WHERE m.memory_id = p_memory AND m.tenant_id = p_tenant AND m.state = 'deleted' AND m.purge_started_at IS NULL
       AND m.deleted_at > now() - make_interval(secs => p_retention_s)
       AND (m.expires_at IS NULL OR m.expires_at > now()) AND (NOT p_restricted OR m.subject_id = p_only_subject);
    IF NOT FOUND THEN
        RETURN lc_absent(p_tenant, p_event, '{"undeleted": 0}');
    END IF;
    p_event := p_event || jsonb_build_object('subject_id', v_memory.subject_id);
    v_answer := lc_charge(
        p_tenant, p_event, jsonb_build_object('memories', 1, 'stored_bytes', v_memory.size_bytes),
        jsonb_build_object(v_memory.subject_id, 1)
    );
    IF v_answer IS NOT NULL THEN
        RETURN lc_quota(p_tenant, p_event, v_answer);
    END IF;
    UPDATE subjects SET generation = generation + 1 WHERE subject_id = v_memory.subject_id AND tenant_id = p_tenant
    RETURNING generation INTO v_generation;
    UPDATE memories SET state = 'active', deleted_at = NULL, generation = v_generation WHERE memory_id = p_memory;
    -- Readers take what is newer than their snapshot from here, if it waits here still.
    UPDATE intake SET generation = v_generation WHERE memory_id = p_memory;
    PERFORM lc_note(v_memory, v_memory.revision, 'undeleted', p_event);
    PERFORM lc_append(p_tenant, p_event, 'allowed', NULL, ARRAY[p_memory], '{"undeleted": 1}');
    RETURN jsonb_build_object('outcome', 'undeleted');
END $$;

-- Who changed a memory when, oldest first: of one that is kept, whatever its state.
CREATE FUNCTION lc_history(
    p_tenant text, p_memory uuid, p_only_subject uuid, p_restricted boolean, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_memory memories%ROWTYPE;
    v_lines jsonb;
    v_refusal jsonb;
    v_seen jsonb := CASE WHEN p_retry THEN lc_recorded(p_event) END;
BEGIN
    IF v_state <> 'active' THEN
        RETURN CASE WHEN v_seen IS NULL THEN lc_refuse(p_tenant, v_state, p_event) ELSE lc_replayed(v_seen, 'told') END;
    END IF;
    SELECT m.* INTO v_memory FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active'
     WHERE m.memory_id = p_memory AND m.tenant_id = p_tenant AND m.purge_started_at IS NULL
       AND (NOT p_restricted OR m.subject_id = p_only_subject);
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'revision', l.revision, 'kind', l.change, 'at', lc_instant(l.at),
               'actor', concat_ws(':', a.event->'actor'->>'kind', a.event->'actor'->>'id'),
               'successor', CASE l.change WHEN 'superseded' THEN v_memory.superseded_by END
           ) ORDER BY l.at, l.place), '[]') INTO v_lines
      FROM (SELECT 1 AS revision, 'stored' AS change, v_memory.stored_at AS at, v_memory.stored_event AS event_id,
                   0 AS place
             UNION ALL
            SELECT c.revision, c.change, c.changed_at, c.event_id, 1 FROM memory_changes c
             WHERE c.memory_id = p_memory AND c.tenant_id = p_tenant
             UNION ALL
            SELECT v_memory.revision, 'expired', v_memory.expires_at, NULL, 2
             WHERE v_memory.state IN ('active', 'expired') AND v_memory.expires_at <= now()) AS l
      LEFT JOIN audit_events a ON a.event_id = l.event_id AND a.log_id = p_tenant
     WHERE v_memory.memory_id IS NOT NULL;
    IF v_seen IS NULL THEN
        v_refusal := lc_charge(p_tenant, p_event, '{"reads": 1}', NULL);
        IF v_refusal IS NOT NULL THEN
            RETURN lc_quota(p_tenant, p_event, v_refusal);
        END IF;
        PERFORM lc_append(
            p_tenant, p_event || jsonb_build_object('subject_id', v_memory.subject_id), 'allowed',
            CASE WHEN v_memory.memory_id IS NULL THEN 'not_found' END,
            array_remove(ARRAY[v_memory.memory_id], NULL),
            jsonb_build_object('returned', jsonb_array_length(v_lines))
        );
    ELSIF v_seen->>'outcome' <> 'allowed' THEN
        RETURN lc_replayed(v_seen, 'told');
    END IF;
    RETURN jsonb_build_object('outcome', 'told', 'lines', v_lines);
END $$;

-- Keep when memories were last read. Returns those that somebody holds just now: they are for another time, because
-- this must never wait for a writer nor let one wait for long.
CREATE FUNCTION lc_touch(p_tenant text, p_ids uuid[], p_at timestamptz[]) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    v_free uuid[];
BEGIN
    PERFORM lc_enter(p_tenant);
    v_free := ARRAY(
        SELECT memory_id FROM memories WHERE tenant_id = p_tenant AND memory_id = ANY(p_ids)
           FOR NO KEY UPDATE SKIP LOCKED
    );
    UPDATE memories AS m SET last_accessed_at = greatest(m.last_accessed_at, r.at)
      FROM unnest(p_ids, p_at) AS r(id, at)
     WHERE m.memory_id = r.id AND m.tenant_id = p_tenant AND m.memory_id = ANY(v_free);
    RETURN ARRAY(
        SELECT memory_id FROM memories
         WHERE tenant_id = p_tenant AND memory_id = ANY(p_ids) AND memory_id <> ALL(v_free)
    );
END $$;
