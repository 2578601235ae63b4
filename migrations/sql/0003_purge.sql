-- Purge: memories that were deleted, expired or superseded long enough ago are removed for good.
--
-- A memory that is chosen is marked first, in a transaction of its own, and from then on is as if it were gone; nothing
-- brings it back, whatever another process takes the retention to be. Its row here leaves last: as long as it is here,
-- what is left of it in Pixeltable can be found, so a purge that was killed anywhere is simply gone on with.

-- Whether a memory was kept long enough.
CREATE FUNCTION lc_due(p_memory memories, p_deleted_s float8, p_expired_s float8, p_superseded_s float8)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE p_memory.state
        WHEN 'deleted' THEN p_memory.purge_started_at IS NOT NULL
                            OR p_memory.deleted_at <= now() - make_interval(secs => p_deleted_s)
        WHEN 'expired' THEN p_memory.expires_at <= now() - make_interval(secs => p_expired_s)
        WHEN 'superseded' THEN p_memory.superseded_at <= now() - make_interval(secs => p_superseded_s)
        ELSE false
    END
$$;

-- Mark at most p_batch memories of a tenant that are due, or name those that an earlier purge marked and did not finish.
CREATE FUNCTION lc_purge_begin(
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
    v_ids := ARRAY(
        SELECT memory_id FROM memories
         WHERE tenant_id = p_tenant AND state = 'deleted' AND purge_started_at IS NOT NULL
         ORDER BY memory_id LIMIT p_batch
    );
    IF cardinality(v_ids) > 0 THEN
        RETURN jsonb_build_object('ids', v_ids);
    END IF;
    WITH due AS (
        -- Of a person who is being erased the erasure takes everything.
        SELECT m.memory_id, m.subject_id, m.state
          FROM memories m JOIN subjects s ON s.subject_id = m.subject_id AND s.state = 'active'
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
    UPDATE memories SET state = 'deleted', purge_started_at = clock_timestamp()
     WHERE tenant_id = p_tenant AND memory_id = ANY(v_ids);
    -- A materializer that lost its lock unnoticed finds nothing to clear, and takes back what it wrote.
    DELETE FROM intake WHERE tenant_id = p_tenant AND memory_id = ANY(v_ids);
    PERFORM lc_append(
        p_tenant, p_event || jsonb_build_object('subject_ids', v_people), 'allowed', 'intent', v_ids, v_counts
    );
    RETURN jsonb_build_object('ids', v_ids);
END $$;

-- Remove marked memories from the ledger, with what waits and what is noted of them; p_rows is what Pixeltable had.
CREATE FUNCTION lc_purge_end(
    p_tenant text, p_ids uuid[], p_rows bigint, p_event jsonb, p_retry boolean
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_people uuid[];
    v_purged uuid[];
BEGIN
    PERFORM lc_enter(p_tenant);
    PERFORM lc_lock(p_tenant);
    IF p_retry AND lc_recorded(p_event) IS NOT NULL THEN
        RETURN (lc_recorded(p_event)->'counts'->>'purged')::bigint;
    END IF;
    WITH gone AS (
        DELETE FROM memories
         WHERE tenant_id = p_tenant AND memory_id = ANY(p_ids) AND state = 'deleted' AND purge_started_at IS NOT NULL
        RETURNING memory_id, subject_id
    )
    SELECT coalesce(array_agg(memory_id ORDER BY memory_id), '{}'), array_agg(DISTINCT subject_id) INTO v_purged, v_people FROM gone;
    PERFORM lc_append(
        p_tenant, p_event || jsonb_build_object('subject_ids', v_people), 'allowed', NULL, v_purged,
        jsonb_build_object('purged', cardinality(v_purged), 'rows', p_rows)
    );
    RETURN cardinality(v_purged);
END $$;
