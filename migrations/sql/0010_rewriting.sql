-- Sealed bytes do not compress, and what is not compressed is found as it is by whoever looks for it.
ALTER TABLE intake ALTER COLUMN envelope SET STORAGE EXTERNAL;
ALTER TABLE api_keys ALTER COLUMN user_sealed SET STORAGE EXTERNAL;

-- The planner's statistics keep samples of columns. Of those that name people for good it needs none: keys are unique,
-- and nobody plans by an event's document. So an id in the statistics is one of a table that forgets.
ALTER TABLE audit_events ALTER COLUMN event SET STATISTICS 0, ALTER COLUMN event TYPE jsonb;
ALTER TABLE subjects ALTER COLUMN subject_id SET STATISTICS 0;
ALTER TABLE erasures ALTER COLUMN subject_id SET STATISTICS 0, ALTER COLUMN subject_id TYPE uuid;
