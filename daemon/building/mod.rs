//! Building: from a client's request to registered outputs.
//!
//! One [`Scheduler`] serves the whole daemon. The behaviour is described in
//! `doc/spec/build-environment.md` and `doc/spec/hook-protocol.md`.
//!
//! # Overview
//!
//! A session calls [`Scheduler::build`] with a [`BuildRequest`] and waits. On the session's own
//! thread, a `Worker` processes the request. It keeps the request's *goals*: derivations to build
//! and items to substitute. Goals wait for other goals: a derivation for its inputs, an item for
//! its references. When everything that a goal needs is valid, the worker starts an *attempt* on a
//! new thread, and gets *events* from it.
//!
//! Goals belong to one request and one thread, so they need no locks. Attempts belong to the
//! daemon: two requests that want the same derivation share one attempt.
//!
//! ```text
//!  session's thread                          │ one thread for each attempt
//!                                            │
//!  Worker ── advances ──▶ Goals, WaitGraph   │
//!    │                                       │
//!    ├─ joins or starts ──▶ Attempts ── Attempt ◀─ logs to ── try_build ─▶ hook_build
//!    │                         │             │                    └──────▶ local_build
//!    ◀── EventQueue ◀── tells ─┘             │ ◀─ logs to ── Fetch
//!    └─▶ LogSink (the client)                │
//! ```
//!
//! # The life cycle of a goal
//!
//! 1. The worker takes the next goal that is *awake*: substitutions first, then derivations of which
//!    it isn't known yet what they need, then those that can be built, and questions last (`queues`).
//! 2. It advances the goal step by step (`build_steps`, `substitution_steps`). Steps check the
//!    store, and add goals for what is missing. These are awake; the goal itself then waits for
//!    them in the `WaitGraph`.
//! 3. When the last goal that it waits for ends, the goal is woken, and advances further. If one of
//!    them fails, the goal is woken immediately, and the goals that only it waited for are dropped
//!    (unless the client requested `--keep-going`).
//!    Meanwhile an item whose references aren't all valid may be *prefetched*, if nothing else needs
//!    the slots: received by an attempt of its own, and kept (`prefetched`) until its turn comes.
//! 4. A goal that needs nothing more is *ready*. What the longest remaining path waits for comes first
//!    ([`farm::order`]), by the time that its like has taken; then names decide. When its turn has
//!    come, it joins the attempt that another request has started, or starts one. It is now
//!    *blocked* by the attempt.
//! 5. The outcome of the attempt ends the goal, or blocks it by something else.
//!
//! # What a goal can wait for, and what wakes it
//!
//! | the goal waits for | kept in | woken by |
//! |---|---|---|
//! | other goals | `WaitGraph` | the end of the last one, or the failure of one |
//! | its attempt | `Blocker::Attempt` | [`AttemptEnded`](event_queue::Event::AttemptEnded), from the attempt's thread |
//! | the attempt that prefetches its item | `Blocker::Prefetch` | the same |
//! | the end of an attempt that is being stopped | `Blocker::StoppedAttempt` | [`StoppedAttemptEnded`](event_queue::Event::StoppedAttemptEnded), from the same |
//! | a slot (`--max-jobs`) | `Blocker::Slot` | [`SlotFreed`](event_queue::Event::SlotFreed), when a local build or a fetch of this request ends |
//! | a lock of another process, or a hook that is busy | `Blocker::Retry` | [`BuildEnded`](event_queue::Event::BuildEnded), when any build of the daemon ends (one goal), and the clock (all goals) |
//!
//! There is no other polling than by the clock: there is no notification when another process
//! unlocks a file or when a build machine becomes free (see `postponement`). A goal is blocked by
//! one thing at a time (`blocked`), and a goal that waits for goals is not blocked, unless its item is
//! prefetched meanwhile. A prefetched item that waits is no blocker: nothing of it runs, so goals that
//! wait for each other are found out with or without it.
//!
//! # Attempts and sharing
//!
//! An attempt to build (`try_build`) locks the outputs, checks again whether they are valid, asks a
//! hook, and otherwise takes a slot and builds locally. It uses the settings, hooks and slots of
//! the request that started it. Requests that join later get the log so far and the same outcome.
//! If an attempt fails for a reason that may be due to the settings of the request that started it
//! (a timeout), the others try again with their own.
//!
//! A request leaves an attempt when its goal is dropped or the client disconnects. The last one to
//! leave cancels the attempt, which kills the hook or the builder, and waits for its end, so that
//! nothing runs for a client that has disconnected.
//!
//! # The queue of events
//!
//! Attempts never write to a client's connection. They push log records and their outcome to the
//! `EventQueue` of each request, and only the request's thread takes events out and writes. Pushing
//! never blocks. If the client reads slowly, its queue fills: then the attempt pauses before it
//! reads more of the builder's output, unless another request that shares it has room. It continues
//! when the worker has taken enough events out, or when a limit on the build's time ends it.
//!
//! # Which thread blocks, and why
//!
//! | thread | blocks on | until |
//! |---|---|---|
//! | the session's (`Worker`) | its `EventQueue` | an event, or the time to retry |
//! | | leaving an attempt as the last one | the attempt has ended |
//! | | the question what can be substituted | the agent's reply, or cancellation |
//! | an attempt's | the turns of clients who have had less (`turns`) | they have been answered, a second has passed, or cancellation |
//! | | a permit to ask a hook (`semaphore`) | another question is answered, or cancellation |
//! | | the hook's reply | the reply, a timeout, or cancellation |
//! | | its turn to have a build user (`build_users`) | one is free, or cancellation |
//! | | the output and the end of hook or builder (`monitor`) | either, a limit, or cancellation |
//! | | room in a queue (`event_count`) | a worker has read, a request joins or leaves, a limit, or cancellation |
//!
//! # Files
//!
//! Imports point downwards in this table and, within a line, to the right.
//!
//! | files | |
//! |---|---|
//! | `scheduler` | what sessions call |
//! | `worker` | one request's event loop |
//! | `try_build`, `hook_build`, `hook_rows`, `local_build`, `outputs`, `references_graph`, `environment` | an attempt to build, by a hook or here |
//! | `deadline`, `attempt_error`, `history` | how long it may go on, how it goes wrong, and what is remembered of it |
//! | `build_steps`, `substitution_steps`, `planner` | the steps of goals, up to the attempt |
//! | `job`, `fetch` | what an attempt's thread needs to know |
//! | `hook/` | hook processes, and asking them |
//! | `monitor`, `log_file`, `files`, `slots`, `build_users` | what attempts use |
//! | `attempt_thread`, `engine`, `agents`, `blocked`, `attempts`, `attempt`, `prefetched` | starting, sharing and ending attempts, and what they have received |
//! | `turns` | whose turn it is to ask the hook |
//! | `goals`, `queues`, `wait_graph`, `postponement` | the request's goals, their order, and what waits for what |
//! | `durations` | how long builds will take |
//! | `event_queue`, `event_count`, `semaphore` | waiting and waking |
//! | `status`, `requests`, `status_question`, `last_status`, `stage` | what everything does, for those who ask |
//! | `goal`, `input_closure`, `outcome`, `request`, `log_sink` | data |
//! | `sandbox/` | running one builder |

mod agents;
mod attempt;
mod attempt_error;
mod attempt_thread;
mod attempts;
mod blocked;
mod build_steps;
mod build_users;
mod deadline;
mod durations;
mod engine;
mod environment;
mod event_count;
mod event_queue;
mod fetch;
mod files;
mod goal;
mod goals;
mod history;
mod hook;
mod hook_build;
mod hook_rows;
mod input_closure;
mod job;
mod joined;
mod last_status;
mod local_build;
mod log_file;
mod log_sink;
mod monitor;
mod outcome;
mod outputs;
mod planner;
mod postponement;
mod prefetched;
mod queues;
mod references_graph;
mod request;
mod requests;
pub mod sandbox;
mod scheduler;
mod semaphore;
mod slots;
mod stage;
mod status;
mod status_question;
mod substitution_steps;
mod try_build;
mod turns;
mod wait_graph;
mod worker;

pub use log_sink::LogSink;
pub use request::{BuildRequest, ClientIdentity};
pub use scheduler::Scheduler;
