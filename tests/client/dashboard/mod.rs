//! `guix-client dashboard`, over real connections: what it serves, and to whom it serves nothing.

mod bounds;
mod browser;
mod chromium;
mod compression;
mod contents;
mod limits;
mod page;
mod simulated;
