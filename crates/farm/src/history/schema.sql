-- The history, version 1 (doc/spec/history.md).
create table attempts (
    id              integer primary key,
    time            integer not null,
    derivation      text not null,
    name            text not null,
    version         text not null,
    system          text not null,
    machine         text not null,
    speed           real not null,
    kind            text not null,
    waited          integer not null,
    sent            integer not null,
    built           integer not null,
    retrieved       integer not null,
    bytes_sent      integer not null,
    bytes_retrieved integer not null,
    result          text not null,
    reason          text not null,
    token           integer
);
create index attempts_by_name on attempts (name);
create index attempts_by_time on attempts (time);
create table states (
    id              integer primary key,
    time            integer not null,
    machine         text not null,
    state           text not null,
    reason          text not null,
    load            real not null,
    cores           integer not null,
    free_bytes      integer not null,
    slots           integer not null
);
create index states_by_time on states (time);
create table pruning (
    pruned          integer not null,
    noted           integer not null
);
insert into pruning values (0, 0);
