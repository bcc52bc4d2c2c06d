-- What a directory that was deployed consists of; only of the latest ones.
ALTER TABLE runs ADD COLUMN listing TEXT;
