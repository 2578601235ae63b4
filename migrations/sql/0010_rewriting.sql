-- Sealed bytes do not compress, and what is not compressed is found as it is by whoever looks for it.
ALTER TABLE intake ALTER COLUMN envelope SET STORAGE EXTERNAL;
ALTER TABLE api_keys ALTER COLUMN user_sealed SET STORAGE EXTERNAL;

-- The planner's statistics keep samples of columns. Of those that name people for good it needs none: keys are unique,
-- and nobody plans by an event's document. So an id in the statistics is one of a table that forgets.
ALTER TABLE audit_events ALTER COLUMN event SET STATISTICS 0, ALTER COLUMN event TYPE jsonb;
ALTER TABLE subjects ALTER COLUMN subject_id SET STATISTICS 0;
ALTER TABLE erasures ALTER COLUMN subject_id SET STATISTICS 0, ALTER COLUMN subject_id TYPE uuid;

-- Closing a tenant is an erasure as a person's is, of all of its people at once. What was closed before was measured by
-- nobody, so it has no levels and no certificate; what is being closed gets its row when that is gone on with.
ALTER TABLE erasures ADD COLUMN whole_tenant boolean DEFAULT false NOT NULL,
    ADD CONSTRAINT ck_erasures_whole_tenant CHECK (NOT whole_tenant OR subject_id IS NULL);
CREATE UNIQUE INDEX uq_erasures_whole_tenant ON erasures (tenant_id) WHERE whole_tenant;
INSERT INTO erasures (erasure_id, tenant_id, whole_tenant, state, counts, requested_at, completed_at, received_at, due_at)
SELECT gen_random_uuid(), tenant_id, true, 'verified', counts, requested_at, completed_at, requested_at,
       requested_at + interval '1 month'
  FROM tenant_closings WHERE completed_at IS NOT NULL;
DROP TABLE tenant_closings;
