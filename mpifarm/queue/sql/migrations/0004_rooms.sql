-- What a run says its nodes have, for those who ask why it does not take a task.
ALTER TABLE mpifarm.run ADD COLUMN room jsonb CHECK (jsonb_typeof(room) = 'object');
