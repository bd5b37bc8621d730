-- What the triggers of `indelible.outboxes.triggers` call. It can be run again at any time.
--
-- Values become the same JSON as in `indelible.capture`. The functions named exact_* return
-- the text of a JSON value, or NULL for NULL. They name no schema for what PostgreSQL brings:
-- a trigger calls them with search_path = pg_catalog, pg_temp.

DO $$ BEGIN
    IF to_regnamespace('indelible') IS NULL THEN
        CREATE SCHEMA indelible;
    END IF;
END $$;

-- ---------------------------------------------------------------------------- values

-- 8192 and the marks: indelible.capture.MOST and what its docstring lists.
CREATE OR REPLACE FUNCTION indelible.digest(value bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{"$sha256":"' || encode(sha256(value), 'hex') || '","size":' || length(value) || '}'
$$;

CREATE OR REPLACE FUNCTION indelible.exact_text(value text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(value) > 8192 THEN indelible.digest(convert_to(value, 'UTF8'))
        ELSE to_json(value)::text END
$$;

CREATE OR REPLACE FUNCTION indelible.exact_bytes(value bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(value) > 8192 THEN indelible.digest(value)
        ELSE '{"$bytes":"' || translate(encode(value, 'base64'), E'\n', '') || '"}' END
$$;

-- Of the text of a float4 or float8: the shortest that is read back as the same number.
CREATE OR REPLACE FUNCTION indelible.exact_float(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value = 'NaN' THEN '{"$float":"nan"}'
        WHEN value = 'Infinity' THEN '{"$float":"inf"}'
        WHEN value = '-Infinity' THEN '{"$float":"-inf"}'
        WHEN value ~ '[.e]' THEN value
        ELSE value || '.0' END
$$;

-- From the seventh zero after the point, Python's decimal has an exponent.
CREATE OR REPLACE FUNCTION indelible.exact_small(value numeric) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '"' || CASE WHEN value < 0 THEN '-' ELSE '' END || left(digits, 1)
        || CASE WHEN length(digits) > 1 THEN '.' || substr(digits, 2) ELSE '' END
        || 'E-' || scale(value) - length(digits) + 1 || '"'
    FROM (SELECT coalesce(nullif(ltrim(abs(value)::text, '0.'), ''), '0') AS digits) AS found
$$;

CREATE OR REPLACE FUNCTION indelible.exact_numeric(value numeric) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN abs(value) >= 0.000001 AND abs(value) < 'Infinity' OR scale(value) <= 6
        THEN '"' || value::text || '"'
        WHEN scale(value) > 6 THEN indelible.exact_small(value)
        ELSE '{"$float":"' || value::text || '"}' END
$$;

-- As datetime.isoformat(); what Python's years cannot hold is a text as PostgreSQL shows it.
CREATE OR REPLACE FUNCTION indelible.exact_moment(value timestamp) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value >= '0001-01-01' AND value < '10000-01-01'
        THEN '"' || replace(to_char(value, 'YYYY-MM-DD"T"HH24:MI:SS.US'), '.000000', '') || '"'
        ELSE to_json(value::text)::text END
$$;

-- With TimeZone = 'UTC', as the triggers have it.
CREATE OR REPLACE FUNCTION indelible.exact_moment(value timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value >= '0001-01-01 00:00:00+00' AND value < '10000-01-01 00:00:00+00'
        THEN '"' || replace(to_char(value, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z') || '"'
        ELSE to_json(value::text)::text END
$$;

CREATE OR REPLACE FUNCTION indelible.exact_time(value time) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT '"' || replace(to_char(value, 'HH24:MI:SS.US'), '.000000', '') || '"'
$$;

CREATE OR REPLACE FUNCTION indelible.exact_timetz(value timetz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT rtrim(indelible.exact_time(value::time), '"')
        || CASE WHEN length(zone) = 3 THEN zone || ':00' ELSE zone END || '"'
    FROM (SELECT substring(value::text FROM '[+-].*$') AS zone) AS found
$$;

-- Seconds; a month has 30 days and a year 365, as for psycopg.
CREATE OR REPLACE FUNCTION indelible.exact_interval(value interval) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT indelible.exact_float((
        86400 * (365 * date_part('year', value)::numeric + 30 * date_part('month', value)::numeric
            + date_part('day', value)::numeric)
        + 3600 * date_part('hour', value)::numeric + 60 * date_part('minute', value)::numeric
        + extract(microseconds FROM value)::numeric / 1000000
    )::float8::text)
$$;

-- Of a container.
CREATE OR REPLACE FUNCTION indelible.bounded(form text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(form) > 8192 THEN indelible.digest(convert_to(form, 'UTF8'))
        ELSE form END
$$;

-- items: the text of each element, in their order, whatever the dimensions.
CREATE OR REPLACE FUNCTION indelible.exact_array(items text[], value anyarray) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    sizes integer[] := '{}';  -- elements in one part of each dimension
    size integer := 1;
    form text;
BEGIN
    IF value IS NULL THEN
        RETURN NULL;
    END IF;
    FOR dimension IN REVERSE coalesce(array_ndims(value), 0)..1 LOOP
        size := size * array_length(value, dimension);
        sizes := sizes || size;
    END LOOP;
    IF items IS NULL THEN
        RETURN '[]';
    ELSIF array_length(sizes, 1) = 1 THEN
        form := '[' || array_to_string(items, ',') || ']';
    ELSE
        SELECT string_agg(
            repeat('[', (SELECT count(*) FROM unnest(sizes) AS s WHERE (n - 1) % s = 0)::integer)
            || item ||
            repeat(']', (SELECT count(*) FROM unnest(sizes) AS s WHERE n % s = 0)::integer),
            ',' ORDER BY n)
        INTO form FROM unnest(items) WITH ORDINALITY AS each (item, n);
    END IF;
    RETURN indelible.bounded(form);
END $$;

-- What may stand in JSON and not in an entry: integers over 64 bits, numbers over a float,
-- marks of ours, nesting without end.
CREATE OR REPLACE FUNCTION indelible.walk_json(value jsonb, depth integer) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    kind text := jsonb_typeof(value);
    number numeric;
    form text;
BEGIN
    IF kind IN ('object', 'array') AND depth >= 32 THEN
        RETURN '{"$repr":' || to_json(left(value::text, 200)) || '}';
    ELSIF kind = 'object' THEN
        SELECT string_agg(to_json(key) || ':' || indelible.walk_json(item, depth + 1), ','
            ORDER BY place)
        INTO form FROM jsonb_each(value) WITH ORDINALITY AS each (key, item, place);
        form := '{' || coalesce(form, '') || '}';
        RETURN CASE WHEN form LIKE '{"$%' AND (SELECT count(*) = 1 FROM jsonb_object_keys(value))
            THEN '{"$object":' || form || '}' ELSE form END;
    ELSIF kind = 'array' THEN
        SELECT string_agg(indelible.walk_json(item, depth + 1), ',' ORDER BY place)
        INTO form FROM jsonb_array_elements(value) WITH ORDINALITY AS each (item, place);
        RETURN '[' || coalesce(form, '') || ']';
    ELSIF kind = 'string' THEN
        RETURN indelible.exact_text(value #>> '{}');
    ELSIF kind = 'number' THEN
        number := value #>> '{}';
        IF scale(number) = 0 THEN
            RETURN CASE WHEN number BETWEEN -9223372036854775808 AND 18446744073709551615
                THEN number::text ELSE '{"$int":"' || number || '"}' END;
        ELSIF abs(number) > 1.7976931348623157e308 THEN
            RETURN CASE WHEN number > 0 THEN '{"$float":"inf"}' ELSE '{"$float":"-inf"}' END;
        END IF;
        RETURN number::text;
    END IF;
    RETURN value::text;
END $$;

CREATE OR REPLACE FUNCTION indelible.exact_jsonb(value jsonb) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    form text := value::text;
BEGIN
    IF strpos(form, '"$') = 0 AND (length(form) < 16 OR form !~ '[0-9]{16}'
        AND octet_length(form) <= 8192
        AND length(form) - length(translate(form, '[{', '')) < 32)
    THEN
        RETURN form;
    END IF;
    form := indelible.walk_json(value, 0);
    RETURN CASE WHEN jsonb_typeof(value) IN ('object', 'array') THEN indelible.bounded(form)
        ELSE form END;
END $$;

CREATE OR REPLACE FUNCTION indelible.exact_json(value json) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE AS $$
BEGIN
    RETURN indelible.exact_jsonb(value::jsonb);
EXCEPTION WHEN OTHERS THEN  -- json takes NUL, half characters and any number
    RETURN indelible.exact_text(value::text);
END $$;

-- Of one part of a key.
CREATE OR REPLACE FUNCTION indelible.key_part(form text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(coalesce(form::json #>> '{}', 'null'), ''), '''''')
$$;

-- The id of a resource has its bounds.
CREATE OR REPLACE FUNCTION indelible.exact_id(id text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(id) > 900
        THEN to_json(indelible.digest(convert_to(id, 'UTF8')))::text
        ELSE to_json(id)::text END
$$;

-- --------------------------------------------------------------------------- context

CREATE OR REPLACE FUNCTION indelible.is_text(value jsonb, most integer, needed boolean = false)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE coalesce(jsonb_typeof(value), 'null') WHEN 'null' THEN NOT needed
        WHEN 'string' THEN length(value #>> '{}') BETWEEN 1 AND most ELSE false END
$$;

CREATE OR REPLACE FUNCTION indelible.is_texts(value jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value IS NULL THEN true WHEN jsonb_typeof(value) <> 'array' THEN false
        ELSE NOT jsonb_path_exists(value, 'strict $[*] ? (@.type() != "string")') END
$$;

CREATE OR REPLACE FUNCTION indelible.is_actor(value jsonb, depth integer = 0) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF coalesce(jsonb_typeof(value), 'null') = 'null' THEN
        RETURN true;
    END IF;
    RETURN depth < 32 AND jsonb_typeof(value) = 'object'
        AND coalesce(value ->> 'type' IN ('user', 'service', 'system', 'anonymous', 'unknown'), false)
        AND indelible.is_text(value -> 'id', 1000, value ->> 'type' IN ('user', 'service'))
        AND indelible.is_text(value -> 'name', 1000)
        AND indelible.is_texts(value -> 'roles')
        AND coalesce(jsonb_typeof(value -> 'asserted') = 'boolean', true)
        AND indelible.is_actor(value -> 'on_behalf_of', depth + 1);
END $$;

-- Whether indelible.context.Context takes it.
CREATE OR REPLACE FUNCTION indelible.is_context(value jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    part jsonb;
BEGIN
    IF jsonb_typeof(value) <> 'object' OR NOT indelible.is_actor(value -> 'actor')
        OR NOT indelible.is_text(value -> 'session', 1000)
        OR NOT indelible.is_text(value -> 'request', 1000)
        OR NOT indelible.is_text(value -> 'tenant', 1000)
        OR jsonb_path_exists(value, 'strict $.keyvalue() ? (@.key == "rationale"
            || @.key == "client" || @.key == "trace" || @.key == "service"
            || @.key == "approval").value ? (@.type() != "object" && @.type() != "null")')
    THEN
        RETURN false;
    END IF;
    part := nullif(value -> 'rationale', 'null');
    IF part IS NOT NULL AND NOT (indelible.is_text(part -> 'text', 2147483647, true)
        AND indelible.is_text(part -> 'code', 1000) AND indelible.is_text(part -> 'reference', 1000))
    THEN
        RETURN false;
    END IF;
    part := nullif(value -> 'client', 'null');
    IF NOT (indelible.is_text(part -> 'ip', 1000) AND indelible.is_text(part -> 'user_agent', 1000))
    THEN
        RETURN false;
    END IF;
    part := nullif(value -> 'trace', 'null');
    IF part IS NOT NULL AND NOT (indelible.is_text(part -> 'trace_id', 200, true)
        AND indelible.is_text(part -> 'span_id', 1000))
    THEN
        RETURN false;
    END IF;
    part := nullif(value -> 'service', 'null');
    IF part IS NOT NULL AND NOT (indelible.is_text(part -> 'name', 200, true)
        AND indelible.is_text(part -> 'version', 1000))
    THEN
        RETURN false;
    END IF;
    part := nullif(value -> 'approval', 'null');
    RETURN part IS NULL OR coalesce(jsonb_typeof(part -> 'distinct') = 'boolean', false)
        AND coalesce(part ->> 'n' ~ '^[1-9][0-9]{0,17}$' AND jsonb_typeof(part -> 'n') = 'number',
            false)
        AND indelible.is_texts(part -> 'approvers') AND indelible.is_text(part -> 'reference', 1000);
END $$;

-- Who acts: what the transaction was told, else what the connection shows. trusted: whether
-- the role may write into the outbox anyway; what another one says of itself is asserted.
CREATE OR REPLACE FUNCTION indelible.context(trusted boolean) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE AS $$
DECLARE
    given text := current_setting('indelible.context', true);
    found jsonb;
BEGIN
    IF given <> '' THEN
        BEGIN
            found := given::jsonb;
            IF NOT indelible.is_context(found) THEN
                found := NULL;
            END IF;
        EXCEPTION WHEN OTHERS THEN  -- never the application's statement for this
            found := NULL;
        END;
        IF found IS NULL THEN
            RAISE WARNING 'indelible.context: found something else, expected a Context as JSON';
        ELSIF trusted OR coalesce(jsonb_typeof(found -> 'actor'), 'null') = 'null' THEN
            RETURN found::text;
        ELSE
            RETURN jsonb_set(found, '{actor,asserted}', 'true')::text;
        END IF;
    END IF;
    found := jsonb_build_object(
        'actor', jsonb_build_object('type', 'unknown', 'id', 'postgresql:' || session_user),
        'service', jsonb_build_object(
            'name', coalesce(nullif(current_setting('application_name'), ''), 'postgresql')));
    IF inet_client_addr() IS NOT NULL THEN
        found := found || jsonb_build_object(
            'client', jsonb_build_object('ip', host(inet_client_addr())));
    END IF;
    RETURN found::text;
END $$;

-- ------------------------------------------------------------------------- statements

-- Write the expression for the JSON of *value*, an expression of this type.
CREATE OR REPLACE FUNCTION indelible.expression(value text, type oid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    about pg_type;
BEGIN
    SELECT * INTO STRICT about FROM pg_type WHERE oid = type;
    IF about.typtype = 'd' THEN
        RETURN indelible.expression(
            format('(%s)::%s', value, format_type(about.typbasetype, about.typtypmod)),
            about.typbasetype);
    ELSIF about.typcategory = 'A' AND about.typlen = -1 AND about.typelem <> 0 THEN
        RETURN format(
            'indelible.exact_array((SELECT array_agg(coalesce(%s, ''null'') ORDER BY u.n)'
            ' FROM unnest(%s) WITH ORDINALITY AS u (e, n)), %2$s)',
            indelible.expression('u.e', about.typelem), value);
    END IF;
    RETURN CASE
        WHEN type IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype,
            'oid'::regtype) THEN format('(%s)::text', value)
        WHEN type IN ('text'::regtype, 'varchar'::regtype)
            THEN format('indelible.exact_text(%s)', value)
        WHEN type = 'numeric'::regtype THEN format('indelible.exact_numeric(%s)', value)
        WHEN type IN ('float4'::regtype, 'float8'::regtype)
            THEN format('indelible.exact_float((%s)::text)', value)
        WHEN type IN ('timestamptz'::regtype, 'timestamp'::regtype)
            THEN format('indelible.exact_moment(%s)', value)
        WHEN type = 'date'::regtype THEN format('''"'' || (%s)::text || ''"''', value)
        WHEN type = 'time'::regtype THEN format('indelible.exact_time(%s)', value)
        WHEN type = 'timetz'::regtype THEN format('indelible.exact_timetz(%s)', value)
        WHEN type = 'interval'::regtype THEN format('indelible.exact_interval(%s)', value)
        WHEN type = 'uuid'::regtype THEN format('''"'' || (%s)::text || ''"''', value)
        WHEN type = 'bytea'::regtype THEN format('indelible.exact_bytes(%s)', value)
        WHEN type = 'jsonb'::regtype THEN format('indelible.exact_jsonb(%s)', value)
        WHEN type = 'json'::regtype THEN format('indelible.exact_json(%s)', value)
        -- format() shows any type as psycopg gets it. num_nulls: of a row whose fields are
        -- all null, IS NULL says that it were none.
        ELSE format('indelible.exact_text(CASE WHEN num_nulls(%1$s) = 0'
            ' THEN format(''%%s'', %1$s) END)', value) END;
END $$;

-- Write the expression for whether two columns of this type differ.
CREATE OR REPLACE FUNCTION indelible.differs(old text, new text, type oid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN type IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype,
            'oid'::regtype, 'numeric'::regtype, 'timestamptz'::regtype, 'timestamp'::regtype,
            'date'::regtype, 'time'::regtype, 'uuid'::regtype, 'bytea'::regtype)
            THEN format('%s IS DISTINCT FROM %s', old, new)
        -- A collation may hold different texts for equal.
        WHEN type IN ('text'::regtype, 'varchar'::regtype)
            THEN format('%s COLLATE "C" IS DISTINCT FROM %s COLLATE "C"', old, new)
        -- Many other types have no operator for it.
        ELSE format('%s COLLATE "C" IS DISTINCT FROM %s COLLATE "C"',
            indelible.expression(old, type), indelible.expression(new, type)) END
$$;

-- The columns of a table, to notice when it is altered.
CREATE OR REPLACE FUNCTION indelible.shape(relation oid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT string_agg(format('%s %s %s', attname, atttypid, attgenerated), ',' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;

-- Write the statement that puts what happened to a table into the outbox.
--
-- options: type, outbox, names, key, exclude, secret, and the last three once more as numbers,
-- by which a column is known after it was renamed.
CREATE OR REPLACE FUNCTION indelible.statement(relation oid, operation text, options jsonb)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    type text := options ->> 'type';
    trusted text := format('has_table_privilege(session_user, %L::regclass, ''INSERT'')',
        options ->> 'outbox');
    secret text := '{"$secret":true}';
    gone text[] := '{}';      -- expressions for the changes of a row that went,
    come text[] := '{}';      -- that came,
    changed text[] := '{}';   -- and that stayed
    key text[] := '{}';
    columns text[] := '{}';
    source text;
    id text;
    head text;
    name text;
    c record;
BEGIN
    FOR c IN
        SELECT attname, attnum, atttypid,
            options -> 'secret' ? attname::text OR options #> '{numbers,secret}' @> to_jsonb(attnum)
                AS is_secret,
            options -> 'exclude' ? attname::text OR options #> '{numbers,exclude}' @> to_jsonb(attnum)
                AS is_excluded,
            array_position(ARRAY(SELECT jsonb_array_elements(options #> '{numbers,key}')::int2),
                attnum) AS place
        FROM pg_attribute
        -- A virtual column is no value of the row; it follows from the others.
        WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
        ORDER BY attnum
    LOOP
        columns := columns || format('r.%I AS c%s', c.attname, c.attnum);
        IF c.place IS NOT NULL THEN
            id := indelible.expression(format('r.%I', c.attname), c.atttypid);
            key[c.place] := CASE
                WHEN c.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                    'uuid'::regtype) THEN format('coalesce(r.%I::text, ''null'')', c.attname)
                ELSE format('indelible.key_part(%s)', id) END;
        END IF;
        CONTINUE WHEN c.is_excluded;
        name := to_json(coalesce(options -> 'names' ->> c.attname::text, c.attname::text));
        IF c.is_secret THEN
            gone := gone || quote_literal(name || ':{"old":' || secret || '}');
            come := come || quote_literal(name || ':{"new":' || secret || '}');
            changed := changed || format('CASE WHEN %s THEN %L END',
                indelible.differs('o.c' || c.attnum, 'n.c' || c.attnum, c.atttypid),
                name || ':{"old":' || secret || ',"new":' || secret || '}');
        ELSE
            gone := gone || format('%L || coalesce(%s, ''null'') || ''}''', name || ':{"old":',
                indelible.expression('o.c' || c.attnum, c.atttypid));
            come := come || format('%L || coalesce(%s, ''null'') || ''}''', name || ':{"new":',
                indelible.expression('n.c' || c.attnum, c.atttypid));
            changed := changed || format(
                'CASE WHEN %s THEN %L || coalesce(%s, ''null'') || '',"new":'''
                ' || coalesce(%s, ''null'') || ''}'' END',
                indelible.differs('o.c' || c.attnum, 'n.c' || c.attnum, c.atttypid),
                name || ':{"old":',
                indelible.expression('o.c' || c.attnum, c.atttypid),
                indelible.expression('n.c' || c.attnum, c.atttypid));
        END IF;
    END LOOP;
    IF cardinality(array_remove(key, NULL)) < jsonb_array_length(options -> 'key') THEN
        id := '''*''';  -- a column of the key is gone since: which row it was cannot be told
    ELSIF cardinality(key) = 1 THEN
        id := key[1];
    ELSE
        SELECT string_agg(
            format('replace(replace(%s, ''%%'', ''%%25''), '','', ''%%2C'')', part),
            ' || '','' || ' ORDER BY place)
        INTO id FROM unnest(key) WITH ORDINALITY AS each (part, place);
    END IF;

    head := '[' || to_json(type || '.%s') || ',' || to_json(type) || ',';
    source := format('SELECT %s%s AS id, %s FROM ',
        CASE id WHEN '''*''' THEN 'row_number() OVER () AS number, ' ELSE '' END, id,
        array_to_string(columns, ', '));
    source := CASE operation
        WHEN 'INSERT' THEN format('SELECT %s AS form FROM (%s) AS n',
            indelible.row(head, 'create', 'n', come), source || 'new_rows AS r')
        WHEN 'DELETE' THEN format('SELECT %s AS form FROM (%s) AS o',
            indelible.row(head, 'delete', 'o', gone), source || 'old_rows AS r')
        WHEN 'TRUNCATE' THEN format('SELECT %L AS form',
            format(head, 'truncate') || to_json(options ->> 'all') || ',{}]')
        -- Never a nested loop, which a plan for one row would be: a full join cannot be one.
        ELSE format('SELECT CASE'
            ' WHEN n.id IS NULL THEN %s WHEN o.id IS NULL THEN %s ELSE %s END AS form'
            ' FROM (%s) AS o FULL JOIN (%s) AS n ON %s',
            indelible.row(head, 'delete', 'o', gone), indelible.row(head, 'create', 'n', come),
            indelible.row(head, 'update', 'n', changed), source || 'old_rows AS r',
            source || 'new_rows AS r',
            CASE id WHEN '''*''' THEN 'o.number = n.number'
                ELSE 'o.id COLLATE "C" = n.id COLLATE "C"' END) END;
    -- 500 rows or about 2 MiB: indelible.outbox.MOST_ROWS and half of MOST_BYTES.
    RETURN format($sql$
        INSERT INTO %s (body)
        SELECT '{"id":"' || replace(gen_random_uuid()::text, '-', '') || '","at":"'
            || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            || '","context":' || (SELECT indelible.context(%s)) || ',"rows":['
            || string_agg(form, ',') || ']}'
        FROM (
            SELECT form, (row_number() OVER w - 1) / 500 AS part,
                sum(octet_length(form)) OVER w / 2097152 AS size
            FROM (%s) AS statement WHERE form IS NOT NULL WINDOW w AS (ROWS UNBOUNDED PRECEDING)
        ) AS parts
        GROUP BY part, size ORDER BY part, size$sql$,
        options ->> 'outbox', trusted, source);
END $$;

-- Write the expression for a row of the outbox's JSON; NULL where nothing has changed.
CREATE OR REPLACE FUNCTION indelible.row(head text, verb text, side text, changes text[])
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('%L || indelible.exact_id(%s.id) || '',{'' || %s || ''}]''',
        replace(head, '%s', verb), side,
        CASE verb WHEN 'update' THEN format('nullif(%s, '''')', list) ELSE list END)
    FROM (SELECT format('array_to_string(ARRAY[%s]::text[], '','')',
        array_to_string(changes, ', ')) AS list) AS found
$$;

-- Put the triggers on a table, or replace them.
CREATE OR REPLACE FUNCTION indelible.install(relation regclass, options jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    name text;
    event text;
BEGIN
    SELECT tgfoid::regproc INTO name FROM pg_trigger
    WHERE tgrelid = relation AND tgname = 'indelible_insert' AND NOT tgisinternal;
    -- Neither by name nor by number: another table may have that one after a restore.
    name := coalesce(name, 'indelible.capture_' || replace(gen_random_uuid()::text, '-', ''));
    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
        SET IntervalStyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
        SET jit = off AS %L$sql$, name, format($body$
        BEGIN
            -- Only who may write into the outbox, and so does it itself, may switch this off.
            IF current_setting('indelible.capture', true) = 'off'
                AND has_table_privilege(session_user, %L::regclass, 'INSERT') THEN
                RETURN NULL;
            END IF;
            -- As indelible.shape, whose plan would be made anew each time.
            IF (SELECT string_agg(format('%%s %%s %%s', attname, atttypid, attgenerated), ','
                ORDER BY attnum)
                FROM pg_attribute WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped
            ) <> %L THEN  -- it was altered since
                EXECUTE indelible.statement(TG_RELID, TG_OP, TG_ARGV[0]::jsonb);
            ELSIF TG_OP = 'INSERT' THEN %s;
            ELSIF TG_OP = 'UPDATE' THEN %s;
            ELSIF TG_OP = 'DELETE' THEN %s;
            ELSE %s;
            END IF;
            RETURN NULL;
        END $body$,
        options ->> 'outbox', indelible.shape(relation),
        indelible.statement(relation, 'INSERT', options),
        indelible.statement(relation, 'UPDATE', options),
        indelible.statement(relation, 'DELETE', options),
        indelible.statement(relation, 'TRUNCATE', options)));
    -- Or anyone could put it on a table of their own, and so write into the outbox.
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', name);
    FOREACH event IN ARRAY ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'] LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s%s FOR EACH STATEMENT'
            ' EXECUTE FUNCTION %s(%L)',
            'indelible_' || lower(event), event, relation,
            CASE event WHEN 'INSERT' THEN ' REFERENCING NEW TABLE AS new_rows'
                WHEN 'UPDATE' THEN ' REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                WHEN 'DELETE' THEN ' REFERENCING OLD TABLE AS old_rows' ELSE '' END,
            name, options::text);
    END LOOP;
END $$;

-- Take the triggers off a table; tell whether there were any.
CREATE OR REPLACE FUNCTION indelible.remove(relation regclass) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    before regprocedure;
    trigger name;
BEGIN
    SELECT tgfoid INTO before FROM pg_trigger
    WHERE tgrelid = relation AND tgname = 'indelible_insert' AND NOT tgisinternal;
    FOR trigger IN SELECT tgname FROM pg_trigger WHERE tgrelid = relation AND tgfoid = before LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger, relation);
    END LOOP;
    IF before IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION %s', before);
    END IF;
    RETURN before IS NOT NULL;
END $$;
