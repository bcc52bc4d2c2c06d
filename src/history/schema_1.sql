-- Times are milliseconds since 1970 in UTC, in `steps` since the run began.
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    run TEXT NOT NULL UNIQUE,
    action TEXT NOT NULL,
    app TEXT,
    release TEXT,
    artifact TEXT,
    digest TEXT,
    size INTEGER,
    inventory TEXT NOT NULL,
    pattern TEXT,
    playbook TEXT,
    who TEXT NOT NULL,
    command TEXT NOT NULL,
    version TEXT NOT NULL,
    request TEXT,
    continues TEXT,
    machine TEXT NOT NULL,
    process INTEGER NOT NULL,
    birth TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    fleet INTEGER NOT NULL DEFAULT 0,
    waves INTEGER NOT NULL DEFAULT 0,
    going_back INTEGER NOT NULL DEFAULT 0,
    ended_at INTEGER,
    verdict TEXT,
    exit_code INTEGER,
    seconds REAL,
    controller_sent INTEGER,
    abort_reason TEXT
) STRICT;
CREATE INDEX runs_by_app ON runs (app, number);
CREATE INDEX runs_by_continues ON runs (continues) WHERE continues IS NOT NULL;

CREATE TABLE hosts (
    number INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    place INTEGER NOT NULL,
    host TEXT NOT NULL,
    state TEXT NOT NULL,
    unchanged INTEGER NOT NULL DEFAULT 0,
    wave INTEGER,
    release TEXT,
    previous TEXT,
    received INTEGER NOT NULL DEFAULT 0,
    transfer_seconds REAL,
    failure_kind TEXT,
    failure_during TEXT,
    failure TEXT,
    hint TEXT,
    PRIMARY KEY (number, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX hosts_by_name ON hosts (host, number);

CREATE TABLE steps (
    number INTEGER NOT NULL,
    place INTEGER NOT NULL,
    step INTEGER NOT NULL,
    at INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (number, place, step),
    FOREIGN KEY (number, place) REFERENCES hosts ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE phases (
    number INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    phase TEXT NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (number, phase)
) STRICT, WITHOUT ROWID;
