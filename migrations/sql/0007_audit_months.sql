-- The months of `audit_leaves`. Serving roles can neither make nor drop a table, nor delete a leaf or an event: these
-- functions do it for them, as the owner, and decide for themselves whether it may be done. Their search path is fixed,
-- or a caller could put tables of its own in the place of ours.

-- The partition of an instant's month is there when this returns. Not for callers: the owner alone may execute it.
CREATE FUNCTION lc_audit_month(p_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_from timestamptz := date_trunc('month', p_at);
    v_name text := 'audit_leaves_' || to_char(v_from, 'YYYY_MM');
BEGIN
    IF to_regclass('public.' || v_name) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Made beside the table and attached: that takes no lock which readers or writers of the table would wait for.
    EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_leaves INCLUDING ALL)', v_name);
    -- Rows are reached through the table alone: no role of the service has a right here. A dump reads each partition.
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('GRANT SELECT ON public.%I TO luminescent_backup', v_name);
    EXECUTE format('CREATE POLICY backup ON public.%I FOR SELECT TO luminescent_backup USING (true)', v_name);
    EXECUTE format(
        'ALTER TABLE public.audit_leaves ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        v_name, v_from, v_from + interval '1 month'
    );
END $$;

-- The time that leaves get now. Their month has its partition, and the next one too, if it can be had without waiting
-- long: nobody shall have to make it at the turn of the month. A clock that jumps finds its month made as well.
CREATE FUNCTION lc_audit_now() RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC'
SET lock_timeout = '1s' AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM public.lc_audit_month(v_now);
    BEGIN
        PERFORM public.lc_audit_month(date_trunc('month', v_now) + interval '1 month');
    EXCEPTION WHEN lock_not_available THEN
        NULL;  -- Whoever asks next tries again.
    END;
    RETURN v_now;
END $$;

-- Removes at most `p_limit` leaves, with their events, that are in the archive of this log which begins at `p_first`;
-- returns how many. Nothing goes that is in no archive, or whose month ended less than a week ago, whoever asks.
CREATE FUNCTION lc_audit_remove(p_log text, p_first bigint, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_archive public.audit_archives;
    v_from timestamptz;
    v_to timestamptz;
    v_removed bigint;
BEGIN
    SELECT * INTO v_archive FROM public.audit_archives WHERE log_id = p_log AND first_leaf = p_first;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'these leaves are in no archive' USING ERRCODE = 'check_violation';
    END IF;
    v_from := v_archive.month::timestamptz;
    v_to := v_from + interval '1 month';
    IF clock_timestamp() < v_to + interval '7 days' THEN
        RAISE EXCEPTION 'these leaves are too young to be removed' USING ERRCODE = 'check_violation';
    END IF;
    WITH chosen AS (
        SELECT leaf_index FROM public.audit_leaves
        WHERE log_id = p_log AND leaf_index >= p_first AND leaf_index < v_archive.end_leaf
          AND sequenced_at >= v_from AND sequenced_at < v_to
        ORDER BY leaf_index LIMIT p_limit
    ), leaves AS (
        DELETE FROM public.audit_leaves l USING chosen c
        WHERE l.log_id = p_log AND l.leaf_index = c.leaf_index AND l.sequenced_at >= v_from AND l.sequenced_at < v_to
        RETURNING l.event_id
    ), events AS (
        DELETE FROM public.audit_events e USING leaves l WHERE e.event_id = l.event_id AND e.log_id = p_log
    )
    SELECT count(*) INTO v_removed FROM leaves;
    RETURN v_removed;
END $$;

-- Drops the partition of a month that ended more than a week ago, if nothing is in it; returns whether it did.
CREATE FUNCTION lc_audit_drop_month(p_month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC'
-- Readers and the sequencer wait behind whoever waits for this lock.
SET lock_timeout = '500ms' AS $$
DECLARE
    v_from timestamptz := date_trunc('month', p_month::timestamptz);
    v_name text := 'audit_leaves_' || to_char(v_from, 'YYYY_MM');
    v_any boolean;
BEGIN
    IF to_regclass('public.' || v_name) IS NULL
        OR clock_timestamp() < v_from + interval '1 month' + interval '7 days' THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM public.%I)', v_name) INTO v_any;
    IF v_any THEN
        RETURN false;
    END IF;
    -- The table first, as everybody does who reads it: the other order could end in a deadlock.
    LOCK TABLE ONLY public.audit_leaves IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE', v_name);
    -- A clock that jumped back may have put something there meanwhile.
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM public.%I)', v_name) INTO v_any;
    IF v_any THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE public.%I', v_name);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

REVOKE ALL ON FUNCTION lc_audit_month(timestamptz), lc_audit_now(), lc_audit_remove(text, bigint, integer),
    lc_audit_drop_month(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lc_audit_now() TO luminescent_worker;
GRANT EXECUTE ON FUNCTION lc_audit_remove(text, bigint, integer), lc_audit_drop_month(date)
    TO luminescent_maintenance;

SELECT lc_audit_now();
