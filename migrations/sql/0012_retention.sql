-- What purging and the rules of retention must know of what happened meanwhile.

-- Mark at most p_batch memories of a tenant that are due, or name those that an earlier purge marked and did not finish.
CREATE OR REPLACE FUNCTION lc_purge_begin(
    p_tenant text, p_batch integer, p_deleted_s float8, p_expired_s float8, p_superseded_s float8,
    p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_ids uuid[];
    v_counts jsonb;
    v_people uuid[];
BEGIN
    PERFORM lc_enter(p_tenant);
    PERFORM lc_lock(p_tenant);
    -- Who places a hold takes this lock too, and the placements' locks: from then on nothing more is taken away, also
    -- of what was marked before.
    IF (SELECT held FROM tenants WHERE tenant_id = p_tenant) THEN
        RETURN '{"ids": []}';
    END IF;
    v_ids := ARRAY(
        SELECT m.memory_id FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND NOT s.held
         WHERE m.tenant_id = p_tenant AND m.state = 'deleted' AND m.purge_started_at IS NOT NULL
         ORDER BY m.memory_id LIMIT p_batch
    );
    IF cardinality(v_ids) > 0 THEN
        RETURN jsonb_build_object('ids', v_ids);
    END IF;
    WITH due AS (
        -- Of a person who is being erased the erasure takes everything.
        SELECT m.memory_id, m.subject_id, m.state
          FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active' AND NOT s.held
         WHERE m.tenant_id = p_tenant AND m.state <> 'active'
           AND lc_due(m, p_deleted_s, p_expired_s, p_superseded_s)
         ORDER BY m.memory_id LIMIT p_batch
    )
    SELECT coalesce(array_agg(memory_id ORDER BY memory_id), '{}'), array_agg(DISTINCT subject_id),
           jsonb_build_object(
               'deleted', count(*) FILTER (WHERE state = 'deleted'),
               'expired', count(*) FILTER (WHERE state = 'expired'),
               'superseded', count(*) FILTER (WHERE state = 'superseded')
           ) INTO v_ids, v_people, v_counts FROM due;
    IF cardinality(v_ids) = 0 THEN
        RETURN jsonb_build_object('ids', v_ids);
    END IF;
    -- Snapshots of these people that still show what expired or was superseded are made anew from nothing: a row that
    -- is gone from the ledger could not tell them of it.
    UPDATE subjects SET generation = generation + 1, purged_generation = generation + 1
     WHERE tenant_id = p_tenant AND subject_id IN (
         SELECT subject_id FROM memories WHERE memory_id = ANY(v_ids) AND state <> 'deleted'
     );
    -- What was deleted needs no new generation; but a snapshot from before the deletion still shows it.
    UPDATE subjects s SET purged_generation = greatest(s.purged_generation, gone.generation)
      FROM (SELECT subject_id, max(generation) AS generation FROM memories
             WHERE tenant_id = p_tenant AND memory_id = ANY(v_ids) AND state = 'deleted' GROUP BY subject_id) AS gone
     WHERE s.tenant_id = p_tenant AND s.subject_id = gone.subject_id;
    UPDATE memories SET state = 'deleted', purge_started_at = clock_timestamp()
     WHERE tenant_id = p_tenant AND memory_id = ANY(v_ids);
    -- A materializer that lost its lock unnoticed finds nothing to clear, and takes back what it wrote.
    DELETE FROM intake WHERE tenant_id = p_tenant AND memory_id = ANY(v_ids);
    PERFORM lc_append(
        p_tenant, p_event || jsonb_build_object('subject_ids', v_people), 'allowed', 'intent', v_ids, v_counts
    );
    RETURN jsonb_build_object('ids', v_ids);
END $$;

-- Delete softly what a rule of retention names: those of p_ids that are active, of nobody who is held, and still in the
-- revision that the rule was applied to. One event for all of them; none if there is nothing to delete.
DROP FUNCTION lc_retain(text, uuid[], jsonb, boolean);
CREATE FUNCTION lc_retain(p_tenant text, p_ids uuid[], p_revisions integer[], p_event jsonb, p_retry boolean)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_memory memories%ROWTYPE;
    v_deleted uuid[] := '{}';
    v_people uuid[] := '{}';
    v_bytes bigint := 0;
BEGIN
    PERFORM lc_enter(p_tenant);
    IF lc_lock(p_tenant) <> 'active' OR (SELECT held FROM tenants WHERE tenant_id = p_tenant) THEN
        RETURN 0;
    END IF;
    IF p_retry AND lc_recorded(p_event) IS NOT NULL THEN
        RETURN (lc_recorded(p_event)->'counts'->>'deleted')::bigint;
    END IF;
    FOR v_memory IN
        SELECT m.* FROM memories m
          JOIN unnest(p_ids, p_revisions) AS seen(id, revision) ON m.memory_id = seen.id AND m.revision = seen.revision
          JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active' AND NOT s.held
         WHERE m.tenant_id = p_tenant AND m.state = 'active'
         ORDER BY m.memory_id
    LOOP
        UPDATE subjects SET generation = generation + 1, memories = memories - 1
         WHERE tenant_id = p_tenant AND subject_id = v_memory.subject_id
        RETURNING generation INTO v_memory.generation;
        UPDATE memories SET state = 'deleted', deleted_at = clock_timestamp(), generation = v_memory.generation
         WHERE tenant_id = p_tenant AND memory_id = v_memory.memory_id;
        PERFORM lc_note(v_memory, v_memory.revision, 'deleted', p_event);
        v_deleted := v_deleted || v_memory.memory_id;
        v_people := v_people || v_memory.subject_id;
        v_bytes := v_bytes + v_memory.size_bytes;
    END LOOP;
    IF cardinality(v_deleted) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM lc_book(
        p_tenant, (p_event->>'event_id')::uuid, p_event->>'action',
        jsonb_build_object('memories', -cardinality(v_deleted), 'stored_bytes', -v_bytes), lc_now()
    );
    PERFORM lc_append(
        p_tenant,
        p_event || jsonb_build_object('subject_ids', ARRAY(SELECT DISTINCT x FROM unnest(v_people) AS x ORDER BY x)),
        'allowed', NULL, v_deleted, jsonb_build_object('deleted', cardinality(v_deleted))
    );
    RETURN cardinality(v_deleted);
END $$;
