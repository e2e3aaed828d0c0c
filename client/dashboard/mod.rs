//! `guix-client dashboard`: a page that shows the whole farm, and the JSON and the metrics behind it, over
//! HTTP (`doc/spec/dashboard.md`). It changes nothing.
//!
//! | file | |
//! |---|---|
//! | `confine.rs` | what it gives up first |
//! | `server.rs` | accepts browsers, as many as there is room for |
//! | `stream.rs` | a browser's connection, which must take what it is sent |
//! | `hosts.rs` | by which names the server may be called |
//! | `requests.rs` | from a request to its response |
//! | `responses.rs`, `compression.rs` | responses, and their bodies |
//! | `gatherer.rs` | gathers the document while somebody looks |
//! | `document.rs` | the document |
//! | `farm.rs`, `cost.rs` | what it is gathered from: |
//! | `daemon_status.rs` | the daemon |
//! | `machines.rs` | the machine files, and the hook's |
//! | `past.rs`, `failures.rs`, `machine_past.rs`, `interval.rs` | the history's last 24 hours |
//! | `logs.rs`, `turns.rs` | the ends of logs, and logs that grow |
//! | `metrics.rs` | the same for Prometheus |
//! | `page.rs`, `page/` | the page |

mod compression;
mod confine;
mod cost;
mod daemon_status;
mod document;
mod failures;
mod farm;
mod gatherer;
mod hosts;
mod interval;
mod logs;
mod machine_past;
mod machines;
mod metrics;
mod page;
mod past;
mod requests;
mod responses;
mod server;
mod stream;
mod turns;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use system::signal::{self, Signal};
use tokio::sync::{Notify, Semaphore};

use self::farm::Farm;
use self::gatherer::Gatherer;
use self::hosts::Hosts;
use self::logs::Logs;
use self::requests::Site;
use crate::{daemon, output, whom};

/// The signals that end it.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How many browsers follow the document at most.
const FOLLOWERS: usize = 960;

/// Where to listen.
#[derive(Args)]
pub struct Arguments {
    /// The address and the port to listen on; with port 0, any that is free. There is no login: whoever can
    /// connect sees what is built, and its logs
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8090", value_parser = address)]
    listen: SocketAddr,
    /// Also answer if the page's address has this host name, for a proxy in front of it; can be repeated
    #[arg(long, value_name = "NAME", value_parser = hosts::name)]
    host: Vec<String>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let no_address = || "expected an address and a port, such as 127.0.0.1:8090 or [::1]:8090";
    match text.parse() {
        Ok(address) => Ok(address),
        // A name can have many addresses; this one is known.
        Err(_) if text.starts_with("localhost:") => {
            let mut addresses = text.to_socket_addrs().map_err(|_| no_address())?;
            Ok(addresses.next().ok_or_else(no_address)?)
        }
        Err(_) => Err(no_address().to_owned()),
    }
}

/// Serves until a signal arrives.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    whom::become_owner(&directories.state)?;
    // Before there are threads: these have it like this one.
    signal::block(&SIGNALS)?;
    system::open_files::raise_limit().context("cannot raise the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("cannot start")?;
    let listener = {
        let _inside = runtime.enter();
        server::listen(arguments.listen)
    };
    let asked = arguments.listen;
    let listener = listener.with_context(|| format!("cannot listen on {asked}"))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        let text = format!(
            "whoever can connect to {address} sees what is built here, and its logs: there is no login"
        );
        output::warning("dashboard", &text);
    }
    let daemon = confine::daemon_address(&directories.state)?;
    let _kept = confine::confine(&directories, &daemon)?;
    let site = Arc::new(Site {
        hosts: Hosts::new(arguments.host),
        gatherer: Gatherer::start(Farm::new(&directories, daemon)?)?,
        logs: Logs::new(directories),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
    });
    let end = Arc::new(Notify::new());
    wait_for_signal(end.clone())?;
    let mut out = output::stdout();
    writeln!(out, "http://{address}/")?;
    out.flush()?;
    drop(out);
    runtime.block_on(server::serve(listener, site, &end))?;
    // A thread that reads a log, or waits for the daemon, need not end.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Tells `end` when one of the signals arrives.
fn wait_for_signal(end: Arc<Notify>) -> Result<()> {
    let wait = move || {
        let _ = signal::wait_for(&SIGNALS);
        end.notify_one();
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .context("cannot start a thread")?;
    Ok(())
}
