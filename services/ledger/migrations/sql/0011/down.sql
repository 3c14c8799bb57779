-- Refused while texts are encrypted: without their keys they would be lost.
DO $$
BEGIN
  IF EXISTS (SELECT FROM data_keys WHERE wrapped IS NOT NULL) THEN
    RAISE EXCEPTION 'texts are encrypted by keys in data_keys: an older release could not read them';
  END IF;
END
$$;
DROP TABLE data_keys;
