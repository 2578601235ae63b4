-- Meters, the usage ledger that they project from, and reservations.
--
-- `usage_events` is the ledger: append-only, one row per charged operation, with a signed delta for each meter. Every
-- counter is the sum of its column, stocks over all time, flows over a UTC month; both are written by one transaction.
--
-- Locks: the tenant's row ('memories', stock, shard 0) first, then its subjects. It is held from the decision to the
-- commit, or two writers would both see the last unit. Reads do not take it: where they are unlimited each backend
-- counts in a shard of its own, where they are limited shard 0 of 'reads' is their lock.
--
-- A flow is charged to the month of the instant that its ledger row carries, whatever the clock says at the commit.

-- The present. Everything about usage asks here, so that a test can put a tenant into another month.
CREATE FUNCTION lc_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT clock_timestamp() $$;

CREATE FUNCTION lc_month(p_at timestamptz) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT date_trunc('month', p_at AT TIME ZONE 'UTC')::date
$$;

-- When the meter starts anew: the first of the next month for a flow, never for a stock.
CREATE FUNCTION lc_resets_at(p_meter text, p_at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_meter IN ('writes', 'reads', 'tokens')
                THEN lc_instant((lc_month(p_at) + interval '1 month') AT TIME ZONE 'UTC') END
$$;

-- A time-ordered UUIDv7 (RFC 9562 §5.7), for what the server itself records.
CREATE FUNCTION lc_new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7' || substr(gen_random_uuid()::text, 16))::uuid
      FROM lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') AS h
$$;

-- The limits of a tenant, its own before its plan's: meter to units, without those that are unlimited.
--
-- In plpgsql, as is everything that a request calls: its plans are kept, those of an SQL function are made anew.
CREATE FUNCTION lc_limits(p_tenant text) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT jsonb_strip_nulls(
                   coalesce((SELECT jsonb_object_agg(l.meter, l.limit_value) FROM plan_limits l WHERE l.plan = t.plan),
                            '{}') || t.limits
               )
          FROM tenants t WHERE t.tenant_id = p_tenant
    );
END $$;

-- How a tenant's meters stand at p_at: `used`, `held` and `limits`, each meter to units. Held is what is reserved and
-- not booked yet; a hold whose time is over counts no more, swept or not. What is nothing may be missing.
CREATE FUNCTION lc_standing(p_tenant text, p_meters text[], p_limits jsonb, p_at timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_month date := lc_month(p_at);
    v_used jsonb;
    v_held jsonb;
BEGIN
    SELECT jsonb_object_agg(meter, used) INTO v_used FROM usage_counters
     WHERE tenant_id = p_tenant AND meter = ANY(p_meters) AND period IN ('1970-01-01', v_month) AND shard = 0;
    IF 'reads' = ANY(p_meters) THEN
        v_used := coalesce(v_used, '{}') || jsonb_build_object('reads', (
            SELECT sum(used) FROM usage_counters WHERE tenant_id = p_tenant AND meter = 'reads' AND period = v_month
        ));
    END IF;
    IF p_meters && '{writes,reads,tokens}' THEN
        SELECT jsonb_object_agg(r.meter, r.amount) INTO v_held FROM (
            SELECT meter, sum(amount) AS amount FROM usage_reservations
             WHERE tenant_id = p_tenant AND meter = ANY(p_meters) AND state = 'held' AND expires_at > p_at
             GROUP BY meter
        ) AS r;
    END IF;
    RETURN jsonb_build_object('used', coalesce(v_used, '{}'), 'held', coalesce(v_held, '{}'), 'limits', p_limits);
END $$;

-- Take the tenant's write lock, held until the transaction ends, and return its state as it is under it: who suspends
-- or closes the tenant changes that, and nothing may be added afterwards.
CREATE FUNCTION lc_lock(p_tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
BEGIN
    PERFORM 1 FROM usage_counters WHERE tenant_id = p_tenant AND meter = 'memories' FOR UPDATE;
    SELECT state INTO v_state FROM tenants WHERE tenant_id = p_tenant;
    RETURN coalesce(v_state, 'unknown');
END $$;

-- Take the lock of limited reads for a month, held until the transaction ends.
CREATE FUNCTION lc_lock_reads(p_tenant text, p_month date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM usage_counters
      WHERE tenant_id = p_tenant AND meter = 'reads' AND period = p_month AND shard = 0 FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO usage_counters (tenant_id, meter, period, shard) VALUES (p_tenant, 'reads', p_month, 0)
        ON CONFLICT DO NOTHING;
        PERFORM 1 FROM usage_counters
          WHERE tenant_id = p_tenant AND meter = 'reads' AND period = p_month AND shard = 0 FOR UPDATE;
    END IF;
END $$;

-- Decide, under the locks, on everything that would be used; nothing is written. Returns in `standing` how the meters
-- with a limit stand, and whether one may pass a threshold, and in `refusal` the first that does not fit, or null; null
-- if no meter has a limit. What gives back is never refused.
--
-- p_subject_deltas: subject id to memories.
-- p_most: memories that no subject will have more of, where the caller knows; far below the limit nobody is asked.
CREATE FUNCTION lc_decide(
    p_tenant text, p_deltas jsonb, p_subject_deltas jsonb, p_at timestamptz, p_most bigint DEFAULT NULL
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_limits jsonb := lc_limits(p_tenant);
    v_meters text[] := '{}';
    v_meter text;
    v_standing jsonb;
    v_refusal jsonb;
    v_limit bigint := (v_limits->'memories_per_subject')::bigint;
    v_delta bigint;
    v_used bigint;
    v_passes boolean;
BEGIN
    IF v_limits = '{}' THEN
        RETURN NULL;
    END IF;
    IF v_limit IS NULL OR p_most * 100 < v_limit * 80 THEN
        p_subject_deltas := '{}';
    END IF;
    v_passes := p_subject_deltas <> '{}';
    FOREACH v_meter IN ARRAY '{memories,stored_bytes,writes,reads,tokens}'::text[] LOOP
        IF p_deltas ? v_meter AND v_limits ? v_meter THEN
            v_meters := v_meters || v_meter;
        END IF;
    END LOOP;
    IF 'reads' = ANY(v_meters) THEN
        PERFORM lc_lock_reads(p_tenant, lc_month(p_at));
    END IF;
    v_standing := lc_standing(p_tenant, v_meters, v_limits, p_at);
    FOREACH v_meter IN ARRAY v_meters LOOP
        v_delta := (p_deltas->v_meter)::bigint;
        v_used := coalesce((v_standing->'used'->v_meter)::bigint, 0);
        v_passes := v_passes OR (v_used + v_delta)::numeric * 100 >= (v_limits->v_meter)::numeric * 80;
        v_used := v_used + coalesce((v_standing->'held'->v_meter)::bigint, 0);
        IF v_delta > 0 AND v_used + v_delta > (v_limits->v_meter)::bigint THEN
            v_refusal := jsonb_build_object(
                'meter', v_meter, 'limit', v_limits->v_meter, 'used', v_used, 'requested', v_delta,
                'resets_at', lc_resets_at(v_meter, p_at)
            );
            EXIT;
        END IF;
    END LOOP;
    IF v_refusal IS NULL AND p_subject_deltas <> '{}' THEN
        SELECT jsonb_build_object(
                   'meter', 'memories_per_subject', 'limit', v_limit, 'used', coalesce(s.memories, 0),
                   'requested', d.value::bigint, 'resets_at', NULL
               ) INTO v_refusal
          FROM jsonb_each_text(p_subject_deltas) AS d
          LEFT JOIN subjects s ON s.subject_id = d.key::uuid AND s.tenant_id = p_tenant
         WHERE d.value::bigint > 0 AND coalesce(s.memories, 0) + d.value::bigint > v_limit
         ORDER BY d.key LIMIT 1;
    END IF;
    RETURN jsonb_build_object(
        'standing', v_standing || jsonb_build_object('passes', v_passes), 'refusal', v_refusal
    );
END $$;

-- Book a charge that was decided: one ledger row, and the counters that project from it. An entry is booked once: its
-- id is the ledger's primary key. Who may pass a limit, such as a report of what was used already, comes here directly.
CREATE FUNCTION lc_book(
    p_tenant text, p_entry uuid, p_operation text, p_deltas jsonb, p_at timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_memories bigint := coalesce((p_deltas->'memories')::bigint, 0);
    v_stored_bytes bigint := coalesce((p_deltas->'stored_bytes')::bigint, 0);
    v_writes bigint := coalesce((p_deltas->'writes')::bigint, 0);
    v_reads bigint := coalesce((p_deltas->'reads')::bigint, 0);
    v_tokens bigint := coalesce((p_deltas->'tokens')::bigint, 0);
    v_month date := lc_month(p_at);
    v_meters text[] := array_remove(ARRAY[
        CASE WHEN v_memories <> 0 THEN 'memories' END, CASE WHEN v_stored_bytes <> 0 THEN 'stored_bytes' END,
        CASE WHEN v_writes > 0 THEN 'writes' END, CASE WHEN v_reads > 0 THEN 'reads' END,
        CASE WHEN v_tokens > 0 THEN 'tokens' END
    ], NULL);
    v_counted integer;
BEGIN
    IF p_deltas - '{memories,stored_bytes,writes,reads,tokens}'::text[] <> '{}' OR least(v_writes, v_reads, v_tokens) < 0
    THEN
        RAISE EXCEPTION 'no such meter, or a flow that would shrink' USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO usage_events (event_id, tenant_id, operation, occurred_at, memories, stored_bytes, writes, reads, tokens)
    VALUES (p_entry, p_tenant, p_operation, p_at, v_memories, v_stored_bytes, v_writes, v_reads, v_tokens);
    IF v_reads > 0 THEN
        PERFORM lc_lock_reads(p_tenant, v_month);
    END IF;
    UPDATE usage_counters SET used = used + (p_deltas->meter)::bigint
     WHERE tenant_id = p_tenant AND meter = ANY(v_meters) AND period IN ('1970-01-01', v_month) AND shard = 0;
    GET DIAGNOSTICS v_counted = ROW_COUNT;
    IF v_counted < cardinality(v_meters) THEN
        -- The first of the month. Who counts writes or tokens holds the tenant's lock, so nobody else makes the rows.
        INSERT INTO usage_counters (tenant_id, meter, period, shard, used)
        SELECT p_tenant, d.meter, v_month, 0, d.units
          FROM (VALUES ('writes', v_writes), ('tokens', v_tokens)) AS d(meter, units) WHERE d.units > 0
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Record what a meter passed on its way from p_before to p_after.
CREATE FUNCTION lc_passed(
    p_tenant text, p_event jsonb, p_subject text, p_meter text, p_before numeric, p_after numeric, p_limit numeric
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_percent integer;
BEGIN
    FOREACH v_percent IN ARRAY '{80,100}'::integer[] LOOP
        IF p_before * 100 < p_limit * v_percent AND p_after * 100 >= p_limit * v_percent THEN
            PERFORM lc_append(
                p_tenant,
                p_event - 'subject_ids' || jsonb_build_object(
                    'event_id', lc_new_id(), 'action', 'usage.threshold', 'subject_id', p_subject, 'latency_us', 0,
                    'details', jsonb_build_object(
                        'meter', p_meter, 'percent', v_percent, 'used', p_after::bigint, 'limit', p_limit::bigint
                    )
                ),
                'allowed', NULL, '{}', '{}'
            );
        END IF;
    END LOOP;
END $$;

-- Record each threshold that a charge took a meter over, 80 % and 100 % of its limit: an event of its own, with the
-- actor and request that did it. A flow passes each once a month; a stock again after it fell below.
-- p_standing is lc_decide's, of before; the subjects' own counts are those after.
CREATE FUNCTION lc_thresholds(
    p_tenant text, p_event jsonb, p_deltas jsonb, p_subject_deltas jsonb, p_standing jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_meter text;
    v_before numeric;
    v_after numeric;
    v_limit numeric;
    v_subject record;
BEGIN
    IF (p_standing->>'passes')::boolean IS NOT TRUE THEN
        RETURN;
    END IF;
    FOREACH v_meter IN ARRAY '{memories,stored_bytes,writes,reads,tokens}'::text[] LOOP
        CONTINUE WHEN NOT (p_deltas ? v_meter AND p_standing->'limits' ? v_meter);
        v_before := coalesce((p_standing->'used'->v_meter)::numeric, 0);
        v_after := v_before + (p_deltas->v_meter)::numeric;
        v_limit := (p_standing->'limits'->v_meter)::numeric;
        IF v_after * 100 >= v_limit * 80 THEN
            PERFORM lc_passed(p_tenant, p_event, NULL, v_meter, v_before, v_after, v_limit);
        END IF;
    END LOOP;
    v_limit := (p_standing->'limits'->'memories_per_subject')::numeric;
    IF v_limit IS NOT NULL AND p_subject_deltas <> '{}' THEN
        FOR v_subject IN
            SELECT d.key AS subject_id, d.value::numeric AS delta, s.memories AS after
              FROM jsonb_each_text(p_subject_deltas) AS d
              JOIN subjects s ON s.subject_id = d.key::uuid AND s.tenant_id = p_tenant
             WHERE s.memories * 100 >= v_limit * 80
             ORDER BY d.key
        LOOP
            PERFORM lc_passed(
                p_tenant, p_event, v_subject.subject_id, 'memories_per_subject', v_subject.after - v_subject.delta,
                v_subject.after, v_limit
            );
        END LOOP;
    END IF;
END $$;

-- What lc_store tells of its meters: for each what is used or held after it, and the limit.
CREATE FUNCTION lc_after(p_standing jsonb, p_deltas jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_meter text;
    v_after jsonb := '{}';
BEGIN
    IF p_standing IS NULL THEN
        -- Of what has no limit nobody asks how much is used.
        RETURN '{"memories": {"used": 0, "limit": null}, "stored_bytes": {"used": 0, "limit": null}, '
               ' "writes": {"used": 0, "limit": null}}'::jsonb;
    END IF;
    FOREACH v_meter IN ARRAY '{memories,stored_bytes,writes,reads,tokens}'::text[] LOOP
        CONTINUE WHEN NOT p_deltas ? v_meter;
        v_after := v_after || jsonb_build_object(v_meter, jsonb_build_object(
            'used', coalesce((p_standing->'used'->v_meter)::bigint, 0)
                    + coalesce((p_standing->'held'->v_meter)::bigint, 0) + (p_deltas->v_meter)::bigint,
            'limit', p_standing->'limits'->v_meter
        ));
    END LOOP;
    RETURN v_after;
END $$;

-- Charge reads without taking the tenant's write lock: readers of a tenant must not wait for each other.
CREATE FUNCTION lc_charge_reads(p_tenant text, p_event jsonb, p_reads bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_at timestamptz := lc_now();
    v_month date := lc_month(v_at);
    v_limited boolean;
    v_deltas jsonb;
    v_decided jsonb;
BEGIN
    SELECT CASE WHEN t.limits ? 'reads' THEN t.limits->>'reads' IS NOT NULL
                ELSE EXISTS (SELECT 1 FROM plan_limits l
                              WHERE l.plan = t.plan AND l.meter = 'reads' AND l.limit_value IS NOT NULL) END
      INTO v_limited FROM tenants t WHERE t.tenant_id = p_tenant;
    IF v_limited THEN
        v_deltas := jsonb_build_object('reads', p_reads);
        v_decided := lc_decide(p_tenant, v_deltas, '{}', v_at);
        IF v_decided->>'refusal' IS NOT NULL THEN
            RETURN v_decided->'refusal';
        END IF;
        PERFORM lc_book(p_tenant, (p_event->>'event_id')::uuid, p_event->>'action', v_deltas, v_at);
        PERFORM lc_thresholds(p_tenant, p_event, v_deltas, '{}', v_decided->'standing');
        RETURN NULL;
    END IF;
    INSERT INTO usage_events (event_id, tenant_id, operation, occurred_at, reads)
    VALUES ((p_event->>'event_id')::uuid, p_tenant, p_event->>'action', v_at, p_reads);
    UPDATE usage_counters SET used = used + p_reads
     WHERE tenant_id = p_tenant AND meter = 'reads' AND period = v_month AND shard = pg_backend_pid() % 16;
    IF NOT FOUND THEN
        INSERT INTO usage_counters AS c (tenant_id, meter, period, shard, used)
        VALUES (p_tenant, 'reads', v_month, pg_backend_pid() % 16, p_reads)
        ON CONFLICT (tenant_id, meter, period, shard) DO UPDATE SET used = c.used + excluded.used;
    END IF;
    RETURN NULL;
END $$;

-- Charge an operation: decides on all meters first and books nothing if one does not fit. Returns null, or what does
-- not fit: meter, limit, used, requested, resets_at. Takes the tenant's lock if the caller does not hold it.
--
-- p_event: the operation's event; its event_id (one is made if it has none) is the ledger entry's, so the same
--     operation is not charged twice, and its action is the entry's operation.
-- p_deltas: meter to units, such as {"memories": 1, "stored_bytes": 312, "writes": 1}. What is negative gives back.
-- p_subject_deltas: subject id to memories, such as {"<uuid>": 1}; a subject that is new must have its row by then.
CREATE FUNCTION lc_charge(
    p_tenant text, p_event jsonb, p_deltas jsonb, p_subject_deltas jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_at timestamptz;
    v_decided jsonb;
    v_grows boolean;
BEGIN
    p_deltas := jsonb_strip_nulls(p_deltas);
    p_subject_deltas := coalesce(p_subject_deltas, '{}');
    p_event := jsonb_build_object('event_id', lc_new_id()) || p_event;
    IF p_deltas - 'reads' = '{}' AND p_subject_deltas = '{}' THEN
        RETURN CASE WHEN (p_deltas->>'reads')::bigint > 0
                    THEN lc_charge_reads(p_tenant, p_event, (p_deltas->>'reads')::bigint) END;
    END IF;
    PERFORM lc_lock(p_tenant);
    v_at := lc_now();
    SELECT coalesce(bool_or(d.value::bigint > 0), false) INTO v_grows
      FROM (SELECT * FROM jsonb_each_text(p_deltas) UNION ALL SELECT * FROM jsonb_each_text(p_subject_deltas)) AS d;
    IF v_grows THEN
        v_decided := lc_decide(p_tenant, p_deltas, p_subject_deltas, v_at);
        IF v_decided->>'refusal' IS NOT NULL THEN
            RETURN v_decided->'refusal';
        END IF;
    END IF;
    UPDATE subjects AS s SET memories = s.memories + d.value::bigint
      FROM jsonb_each_text(p_subject_deltas) AS d
     WHERE s.subject_id = d.key::uuid AND s.tenant_id = p_tenant;
    PERFORM lc_book(p_tenant, (p_event->>'event_id')::uuid, p_event->>'action', p_deltas, v_at);
    IF v_grows THEN
        PERFORM lc_thresholds(p_tenant, p_event, p_deltas, p_subject_deltas, v_decided->'standing');
    END IF;
    RETURN NULL;
END $$;

-- Record that a quota refused the operation, and answer with its facts.
CREATE FUNCTION lc_quota(p_tenant text, p_event jsonb, p_refusal jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lc_append(
        p_tenant,
        p_event || jsonb_build_object(
            'details', coalesce(p_event->'details', '{}') || jsonb_build_object(
                'meter', p_refusal->'meter', 'resets_at', p_refusal->'resets_at'
            )
        ),
        'denied', 'quota_exceeded', '{}', p_refusal - '{meter,resets_at}'::text[]
    );
    RETURN '{"outcome": "quota"}'::jsonb || p_refusal;
END $$;

-- The answer that the earlier attempt would have given: its event says what was decided.
CREATE OR REPLACE FUNCTION lc_replayed(p_seen jsonb, p_success text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN p_seen->>'outcome' = 'allowed' THEN
            jsonb_build_object('outcome', p_success, 'ids', p_seen->'resource_ids', 'generations', '{}'::jsonb)
        WHEN p_seen->>'reason' = 'quota_exceeded' THEN
            -- Events of the first release name no meter: it was the only one.
            jsonb_build_object(
                'outcome', 'quota', 'meter', coalesce(p_seen->'details'->>'meter', 'memories'),
                'resets_at', p_seen->'details'->'resets_at'
            ) || (p_seen->'counts')
        WHEN p_seen->>'reason' = 'idempotency_conflict' THEN jsonb_build_object('outcome', 'conflict')
        ELSE jsonb_build_object('outcome', 'refused', 'reason', p_seen->>'reason')
    END
$$;

-- Admit a read that was ranked at p_generation: stale if the subject has changed since, else charged and recorded with
-- the ids that the ledger still holds. p_floor, once the caller knows it, is a generation that holds everything
-- acknowledged before the call began; then later changes do not make it stale. The ledger's clock decides expiry.
CREATE OR REPLACE FUNCTION lc_read(
    p_tenant text, p_subject uuid, p_generation bigint, p_floor bigint, p_ids uuid[], p_include_invalid boolean,
    p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_subject text;
    v_generation bigint := 0;
    v_alive uuid[] := '{}';
    v_seen jsonb;
    v_refusal jsonb;
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
    END IF;
    v_refusal := lc_charge_reads(p_tenant, p_event, 1);
    IF v_refusal IS NOT NULL THEN
        RETURN lc_quota(p_tenant, p_event, v_refusal);
    END IF;
    IF p_subject IS NOT NULL THEN
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

-- Take memories whose time is over out of the stock, at most p_batch of each tenant; returns how many.
CREATE OR REPLACE FUNCTION lc_expire(p_batch integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_tenant text;
    v_moved integer;
    v_bytes bigint;
    v_subject_deltas jsonb;
    v_total integer := 0;
BEGIN
    FOR v_tenant IN
        SELECT DISTINCT tenant_id FROM (
            SELECT tenant_id FROM memories
             WHERE state = 'active' AND expires_at IS NOT NULL AND expires_at <= now()
             ORDER BY expires_at LIMIT p_batch
        ) AS due ORDER BY tenant_id
    LOOP
        PERFORM lc_lock(v_tenant);
        WITH moved AS (
            UPDATE memories SET state = 'expired' WHERE memory_id IN (
                SELECT memory_id FROM memories
                 WHERE tenant_id = v_tenant AND state = 'active' AND expires_at IS NOT NULL AND expires_at <= now()
                 LIMIT p_batch
            ) RETURNING subject_id, size_bytes
        ), people AS (
            SELECT subject_id, count(*) AS n, sum(size_bytes) AS size_bytes FROM moved GROUP BY subject_id
        )
        SELECT coalesce(sum(n), 0), coalesce(sum(size_bytes), 0), jsonb_object_agg(subject_id, -n)
          INTO v_moved, v_bytes, v_subject_deltas FROM people;
        IF v_moved > 0 THEN
            PERFORM lc_charge(
                v_tenant, '{"action": "memory.expire"}',
                jsonb_build_object('memories', -v_moved, 'stored_bytes', -v_bytes), v_subject_deltas
            );
        END IF;
        v_total := v_total + v_moved;
    END LOOP;
    RETURN v_total;
END $$;

-- Keep what foreign code reports as used already: facts, so no limit refuses them. The same entry counts once.
CREATE FUNCTION lc_track(
    p_tenant text, p_entry uuid, p_operation text, p_tokens bigint, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_at timestamptz;
    v_deltas jsonb := jsonb_build_object('tokens', p_tokens);
    v_decided jsonb;
BEGIN
    IF v_state = 'unknown' THEN
        IF lc_recorded(p_event) IS NULL THEN
            PERFORM lc_refuse(p_tenant, v_state, p_event);
        END IF;
        RETURN jsonb_build_object('outcome', 'unknown');
    END IF;
    PERFORM lc_lock(p_tenant);
    IF p_retry AND lc_recorded(p_event) IS NOT NULL THEN
        RETURN jsonb_build_object('outcome', 'kept');
    END IF;
    IF EXISTS (SELECT 1 FROM usage_events WHERE event_id = p_entry AND tenant_id = p_tenant) THEN
        PERFORM lc_append(p_tenant, p_event, 'allowed', 'repeated', '{}', '{"tokens": 0}');
        RETURN jsonb_build_object('outcome', 'kept');
    END IF;
    v_at := lc_now();
    v_decided := lc_decide(p_tenant, v_deltas, '{}', v_at);
    PERFORM lc_book(p_tenant, p_entry, p_operation, v_deltas, v_at);
    PERFORM lc_append(p_tenant, p_event, 'allowed', NULL, '{}', v_deltas);
    PERFORM lc_thresholds(p_tenant, p_event, v_deltas, '{}', v_decided->'standing');
    RETURN jsonb_build_object('outcome', 'kept');
END $$;

-- Hold units of a flow for work that is about to begin: used + held + requested never exceeds the limit.
CREATE FUNCTION lc_reserve(
    p_tenant text, p_reservation uuid, p_meter text, p_amount bigint, p_ttl_s float8, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_seen jsonb;
    v_at timestamptz;
    v_expires timestamptz;
    v_decided jsonb;
BEGIN
    IF p_retry THEN
        PERFORM lc_lock(p_tenant);
        v_seen := lc_recorded(p_event);
        IF v_seen->>'outcome' = 'allowed' THEN
            SELECT expires_at INTO v_expires FROM usage_reservations
             WHERE reservation_id = p_reservation AND tenant_id = p_tenant;
            RETURN jsonb_build_object('outcome', 'held', 'expires_at', lc_instant(v_expires));
        ELSIF v_seen IS NOT NULL THEN
            RETURN lc_replayed(v_seen, 'held');
        END IF;
    END IF;
    v_state := lc_lock(p_tenant);
    IF v_state <> 'active' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    v_at := lc_now();
    v_decided := lc_decide(p_tenant, jsonb_build_object(p_meter, p_amount), '{}', v_at);
    IF v_decided->>'refusal' IS NOT NULL THEN
        RETURN lc_quota(p_tenant, p_event, v_decided->'refusal');
    END IF;
    v_expires := v_at + make_interval(secs => p_ttl_s);
    INSERT INTO usage_reservations (reservation_id, tenant_id, meter, amount, created_at, expires_at)
    VALUES (p_reservation, p_tenant, p_meter, p_amount, v_at, v_expires);
    PERFORM lc_append(p_tenant, p_event, 'allowed', NULL, ARRAY[p_reservation], jsonb_build_object('amount', p_amount));
    RETURN jsonb_build_object('outcome', 'held', 'expires_at', lc_instant(v_expires));
END $$;

-- End a reservation. p_actual null releases it; else that much was used and is booked, also where it is more than was
-- held or the time of the hold is over: it is a fact by now, and no limit undoes it. Repeating either changes nothing.
CREATE FUNCTION lc_settle(
    p_tenant text, p_reservation uuid, p_commit boolean, p_actual bigint, p_event jsonb, p_retry boolean
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_state text := lc_enter(p_tenant);
    v_seen jsonb;
    v_held usage_reservations%ROWTYPE;
    v_at timestamptz;
    v_actual bigint;
    v_deltas jsonb;
    v_decided jsonb;
BEGIN
    IF v_state = 'unknown' THEN
        RETURN lc_refuse(p_tenant, v_state, p_event);
    END IF;
    PERFORM lc_lock(p_tenant);
    SELECT * INTO v_held FROM usage_reservations
     WHERE reservation_id = p_reservation AND tenant_id = p_tenant FOR UPDATE;
    v_seen := CASE WHEN p_retry THEN lc_recorded(p_event) END;
    IF v_held.state IS NULL OR (p_commit AND v_held.state = 'released') THEN
        IF v_seen IS NULL THEN
            PERFORM lc_append(
                p_tenant, p_event, 'denied', CASE WHEN v_held.state IS NULL THEN 'not_found' ELSE 'released' END, '{}', '{}'
            );
        END IF;
        RETURN jsonb_build_object('outcome', CASE WHEN v_held.state IS NULL THEN 'absent' ELSE 'released' END);
    END IF;
    IF v_held.state IN ('committed', 'released') THEN
        IF v_seen IS NULL THEN
            PERFORM lc_append(p_tenant, p_event, 'allowed', 'repeated', ARRAY[p_reservation], '{}');
        END IF;
        RETURN jsonb_build_object('outcome', v_held.state, 'actual', v_held.actual);
    END IF;
    v_at := lc_now();
    v_actual := CASE WHEN p_commit THEN coalesce(p_actual, v_held.amount) ELSE 0 END;
    IF v_actual > 0 THEN
        v_deltas := jsonb_build_object(v_held.meter, v_actual);
        v_decided := lc_decide(p_tenant, v_deltas, '{}', v_at);
        PERFORM lc_book(p_tenant, (p_event->>'event_id')::uuid, p_event->>'action', v_deltas, v_at);
        PERFORM lc_thresholds(p_tenant, p_event, v_deltas, '{}', v_decided->'standing');
    END IF;
    UPDATE usage_reservations
       SET state = CASE WHEN p_commit THEN 'committed' ELSE 'released' END, actual = v_actual, settled_at = v_at
     WHERE reservation_id = p_reservation;
    PERFORM lc_append(
        p_tenant, p_event, 'allowed', CASE WHEN p_commit AND v_held.expires_at <= v_at THEN 'late' END,
        ARRAY[p_reservation], jsonb_build_object('amount', v_held.amount, 'actual', v_actual)
    );
    RETURN jsonb_build_object('outcome', CASE WHEN p_commit THEN 'committed' ELSE 'released' END, 'actual', v_actual);
END $$;

-- Mark holds whose time is over, and forget what was settled or expired a month ago; returns how many were marked.
CREATE FUNCTION lc_sweep(p_batch integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_marked integer;
BEGIN
    UPDATE usage_reservations SET state = 'expired' WHERE reservation_id IN (
        SELECT reservation_id FROM usage_reservations WHERE state = 'held' AND expires_at <= lc_now()
         ORDER BY expires_at LIMIT p_batch FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS v_marked = ROW_COUNT;
    DELETE FROM usage_reservations WHERE reservation_id IN (
        SELECT reservation_id FROM usage_reservations
         WHERE state <> 'held' AND expires_at <= lc_now() - interval '30 days'
         ORDER BY expires_at LIMIT p_batch FOR UPDATE SKIP LOCKED
    );
    RETURN v_marked;
END $$;

-- Stocks and flows as they were when this revision came: the ledger begins with what was in stock.
UPDATE subjects AS s SET memories = m.n
  FROM (SELECT subject_id, count(*) AS n FROM memories WHERE state = 'active' GROUP BY subject_id) AS m
 WHERE m.subject_id = s.subject_id;
INSERT INTO usage_counters (tenant_id, meter, period, shard, used)
SELECT t.tenant_id, 'stored_bytes', '1970-01-01', 0, coalesce(sum(m.size_bytes), 0)
  FROM tenants t LEFT JOIN memories m ON m.tenant_id = t.tenant_id AND m.state = 'active'
 GROUP BY t.tenant_id;
INSERT INTO usage_counters (tenant_id, meter, period, shard, used)
SELECT tenant_id, 'tokens', lc_month(occurred_at), 0, sum(tokens)
  FROM usage_events GROUP BY tenant_id, lc_month(occurred_at);
INSERT INTO usage_events (event_id, tenant_id, operation, memories, stored_bytes)
SELECT lc_new_id(), tenant_id, 'usage.opening',
       sum(used) FILTER (WHERE meter = 'memories'), sum(used) FILTER (WHERE meter = 'stored_bytes')
  FROM usage_counters WHERE period = '1970-01-01' GROUP BY tenant_id HAVING sum(used) > 0;

-- Rights. Nobody who serves requests updates or deletes a ledger row.
GRANT INSERT ON usage_counters TO luminescent_app;
GRANT UPDATE (memories) ON subjects TO luminescent_app;
GRANT SELECT, INSERT ON usage_reservations TO luminescent_app;
GRANT UPDATE (state, actual, settled_at) ON usage_reservations TO luminescent_app;

GRANT SELECT ON subjects TO luminescent_worker;
GRANT UPDATE (memories) ON subjects TO luminescent_worker;
GRANT INSERT ON usage_events TO luminescent_worker;
GRANT SELECT, DELETE ON usage_reservations TO luminescent_worker;
GRANT UPDATE (state) ON usage_reservations TO luminescent_worker;

GRANT INSERT ON usage_events TO luminescent_maintenance;
GRANT SELECT, DELETE ON usage_reservations TO luminescent_maintenance;
GRANT SELECT ON usage_reservations TO luminescent_backup;

ALTER TABLE usage_reservations ENABLE ROW LEVEL SECURITY;
CREATE POLICY request_path ON usage_reservations TO luminescent_app
    USING (tenant_id = current_setting('luminescent.tenant', true) AND tenant_id <> '_system');
CREATE POLICY maintenance ON usage_reservations TO luminescent_maintenance USING (true);
CREATE POLICY backup ON usage_reservations FOR SELECT TO luminescent_backup USING (true);
CREATE POLICY worker ON usage_reservations TO luminescent_worker USING (true);
CREATE POLICY worker ON subjects TO luminescent_worker USING (true);
CREATE POLICY worker ON usage_events FOR INSERT TO luminescent_worker WITH CHECK (true);
