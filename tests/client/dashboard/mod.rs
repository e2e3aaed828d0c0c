//! `guix-client dashboard`, over real connections: what it serves, and to whom it serves nothing.

mod bounds;
mod browser;
mod chromium;
mod contents;
mod limits;
mod page;
