//! `guix-client weather`: which substitute servers have which items, how large, and whether they are
//! believed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use authority::Keys;
use clap::Args;
use formats::StorePath;
use formats::printable::{printable, printable_json};
use gcrypt::Acl;
use indicatif::HumanBytes;
use serde::Serialize;
use store::Directories;
use substitutes::servers::{ListedBy, Server, parse_list};
use substitutes::survey::{Answer, Report, Standing, survey};
use substitutes::{Narinfo, Preference};

use crate::daemon::{self, Daemon, item_behind};
use crate::network::network;
use crate::options;
use crate::output;
use crate::plan::read_derivation;

/// Options of `weather`.
#[derive(Args)]
pub struct Arguments {
    /// Ask the servers at URLS instead of the daemon's
    #[arg(long, value_name = "URLS", value_parser = options::servers)]
    substitute_urls: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Items, which need not be in the store; of derivations, the outputs are meant
    #[arg(required = true, value_name = "ITEM")]
    items: Vec<OsString>,
}

/// Asks all servers, and prints what they say.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    let items = items(&directories, &arguments.items)?;
    let servers = servers(arguments.substitute_urls.as_deref())?;
    let acl = Keys::new(&directories.configuration).authorised();
    if let Err(error) = &acl {
        let text = format!("which keys are authorised is unknown: {error}");
        output::warning("weather", &text);
    }
    let none = Acl::default();
    let acl = acl.as_ref().map_or(&none, |authorised| authorised.acl());
    let network = network(&directories);
    let mut told: Vec<Option<Report>> = servers.iter().map(|_| None).collect();
    let mut tell = |row: usize, report| told[row] = Some(report);
    let store = &directories.store;
    survey(&network, store, &servers, &items, false, &mut tell)
        .context("asking substitute servers")?;
    // Each has been told of.
    let told: Vec<Report> = told.into_iter().flatten().collect();
    let mut reports = Vec::new();
    for (column, item) in items.iter().enumerate() {
        let answers = told.iter().map(|report| &report.answers[column]);
        reports.push(ItemReport::new(item, &servers, answers, acl));
    }
    let weather = Weather::new(&servers, &told, reports);
    let mut out = output::stdout();
    let text = match arguments.json {
        true => weather.json(),
        false => weather.text(),
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(match weather.items.iter().all(|item| item.substitutable) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The items that are meant, each once.
fn items(directories: &Directories, arguments: &[OsString]) -> Result<Vec<StorePath>> {
    let mut items = Vec::new();
    for argument in arguments {
        let item = item_behind(&directories.store, argument)?;
        if item.is_derivation() {
            let derivation = read_derivation(&item, &directories.store)?;
            items.extend(derivation.output_paths().cloned());
        } else {
            items.push(item);
        }
    }
    let mut seen = BTreeSet::new();
    items.retain(|item| seen.insert(item.clone()));
    Ok(items)
}

/// The servers to ask: those of the daemon, unless they are named.
fn servers(urls: Option<&str>) -> Result<Vec<Arc<Server>>> {
    let urls = match urls {
        Some(urls) => urls.to_owned(),
        None => {
            let urls = Daemon::connect()?.connection.substitute_urls();
            let urls = urls.context("asking the daemon for its substitute servers")?;
            let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            urls.join(" ")
        }
    };
    let servers = parse_list(&urls, ListedBy::Administrator)?;
    if servers.is_empty() {
        bail!("there are no substitute servers: name some with '--substitute-urls'");
    }
    Ok(servers)
}

/// Everything that is printed.
#[derive(Serialize)]
struct Weather {
    servers: Vec<ServerReport>,
    items: Vec<ItemReport>,
}

/// What a server has altogether.
#[derive(Serialize)]
struct ServerReport {
    url: String,
    /// How many of the items it has.
    items: usize,
    /// How many bytes there are to download; sizes that it doesn't say count as nothing.
    download_size: u64,
    /// How many bytes they have in the store.
    nar_size: u64,
    /// Why it was asked for nothing more.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What is known of an item.
#[derive(Serialize)]
struct ItemReport {
    path: String,
    /// Whether a server has it that is believed.
    substitutable: bool,
    servers: Vec<Offer>,
}

/// What a server says of an item.
#[derive(Serialize)]
struct Offer {
    url: String,
    status: Status,
    /// The key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Why it says nothing that could be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nar_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nar_size: Option<u64>,
    /// The first of these is downloaded first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<Download>,
}

/// A file to download.
#[derive(Serialize)]
struct Download {
    url: String,
    compression: &'static str,
    size: Option<u64>,
}

/// Whether a server has an item, and whether it is believed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// It has it, signed by an authorised key.
    Authorised,
    /// It has the same as an authorised one.
    Same,
    /// It has it, signed by another key.
    Unauthorised,
    /// It has it, with a signature that is not valid.
    Invalid,
    /// It has it, not signed.
    Unsigned,
    /// It doesn't have it.
    Missing,
    /// It could not be asked.
    Failed,
}

impl ItemReport {
    fn new<'a>(
        path: &StorePath,
        servers: &[Arc<Server>],
        answers: impl Iterator<Item = &'a Answer> + Clone,
        acl: &Acl,
    ) -> ItemReport {
        let authorised = answers.clone().find_map(|answer| match answer {
            Answer::Has(narinfo) => {
                let standing = Standing::of(narinfo, acl);
                matches!(standing, Standing::Authorised(_)).then_some(narinfo)
            }
            _ => None,
        });
        let offers = servers.iter().zip(answers);
        ItemReport {
            path: path.to_string(),
            substitutable: authorised.is_some(),
            servers: offers
                .map(|(server, answer)| Offer::new(server, answer, authorised, acl))
                .collect(),
        }
    }
}

impl Offer {
    fn new(
        server: &Server,
        answer: &Answer,
        authorised: Option<&Arc<Narinfo>>,
        acl: &Acl,
    ) -> Offer {
        let mut offer = Offer {
            url: server.url().to_owned(),
            status: Status::Missing,
            key: None,
            error: None,
            nar_hash: None,
            nar_size: None,
            files: Vec::new(),
        };
        let narinfo = match answer {
            Answer::Has(narinfo) => narinfo,
            Answer::HasNot => return offer,
            Answer::Failed(reason) => {
                offer.status = Status::Failed;
                offer.error = Some(reason.clone());
                return offer;
            }
        };
        (offer.status, offer.key) = match Standing::of(narinfo, acl) {
            Standing::Authorised(key) => (Status::Authorised, Some(key)),
            Standing::Unauthorised(key) => (Status::Unauthorised, Some(key)),
            Standing::Invalid => (Status::Invalid, None),
            Standing::Unsigned => (Status::Unsigned, None),
        };
        // Whoever believes one believes all that say the same.
        let is_same = authorised.is_some_and(|authorised| authorised.is_equivalent(narinfo));
        if offer.status != Status::Authorised && is_same {
            offer.status = Status::Same;
        }
        let hash = narinfo.nar_hash();
        offer.nar_hash = Some(format!("{}:{}", hash.algorithm().name(), hash.base32()));
        offer.nar_size = Some(narinfo.nar_size());
        let variants = Preference::default().order(narinfo.variants());
        offer.files = variants
            .into_iter()
            .map(|variant| Download {
                url: narinfo.url_of(variant),
                compression: variant.compression.name(),
                size: variant.file_size,
            })
            .collect();
        offer
    }

    /// In words.
    fn words(&self) -> String {
        let key = self.key.as_deref().unwrap_or_default();
        let standing = match self.status {
            Status::Missing => return "not there".to_owned(),
            Status::Failed => return self.error.clone().unwrap_or_default(),
            Status::Authorised => format!("signed by the authorised key {key}"),
            Status::Same => "the same as the authorised one".to_owned(),
            Status::Unauthorised => format!("signed by the key {key}, which is NOT authorised"),
            Status::Invalid => "its signature is NOT valid".to_owned(),
            Status::Unsigned => "NOT signed".to_owned(),
        };
        let files: Vec<String> = self
            .files
            .iter()
            .map(|file| match file.size {
                Some(size) => format!("{} {}", HumanBytes(size), file.compression),
                None => file.compression.to_owned(),
            })
            .collect();
        let size = HumanBytes(self.nar_size.unwrap_or(0));
        format!("{}; {size} in the store; {standing}", files.join(", "))
    }
}

impl Weather {
    fn new(servers: &[Arc<Server>], told: &[Report], items: Vec<ItemReport>) -> Weather {
        let report = |(row, server): (usize, &Arc<Server>)| {
            let offers = items.iter().map(|item| &item.servers[row]);
            let there: Vec<&Offer> = offers.filter(|offer| offer.nar_size.is_some()).collect();
            let downloads = there.iter().filter_map(|offer| offer.files.first());
            let sum = |sizes: &mut dyn Iterator<Item = u64>| {
                sizes.fold(0_u64, |sum, size| sum.saturating_add(size))
            };
            ServerReport {
                url: server.url().to_owned(),
                items: there.len(),
                download_size: sum(&mut downloads.filter_map(|file| file.size)),
                nar_size: sum(&mut there.iter().filter_map(|offer| offer.nar_size)),
                error: told[row].given_up.clone(),
            }
        };
        Weather {
            servers: servers.iter().enumerate().map(report).collect(),
            items,
        }
    }

    fn json(&self) -> String {
        // Nothing in it can fail to be written.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        printable_json(&text) + "\n"
    }

    /// How many items a server could not be asked for, by reasons that it has for several of them.
    fn failures(&self, row: usize) -> BTreeMap<&str, usize> {
        let mut failures = BTreeMap::new();
        for item in &self.items {
            if let Some(reason) = &item.servers[row].error {
                *failures.entry(reason.as_str()).or_insert(0) += 1;
            }
        }
        failures.retain(|_, count| *count > 1);
        failures
    }

    fn text(&self) -> String {
        let widths = self.servers.iter().map(|server| server.url.chars().count());
        let width = widths.max().unwrap_or(0);
        let failures: Vec<_> = (0..self.servers.len())
            .map(|row| self.failures(row))
            .collect();
        let mut text = String::new();
        for item in &self.items {
            text += &format!("{}\n", item.path);
            for (row, offer) in item.servers.iter().enumerate() {
                let reason = offer.error.as_deref().unwrap_or_default();
                if self.servers[row].error.is_some() && !reason.is_empty()
                    || failures[row].contains_key(reason)
                {
                    // That is said once, below.
                    continue;
                }
                let words = offer.words();
                text += &format!("  {:width$}  {}\n", offer.url, printable(&words));
            }
        }
        let count = self.items.len();
        for (server, failures) in self.servers.iter().zip(&failures) {
            if server.items > 0 || server.error.is_none() {
                text += &format!(
                    "{}: {} of {count} items, {} to download, {} in the store\n",
                    server.url,
                    server.items,
                    HumanBytes(server.download_size),
                    HumanBytes(server.nar_size)
                );
            }
            if let Some(reason) = &server.error {
                text += &format!(
                    "{}: not asked any more: {}\n",
                    server.url,
                    printable(reason)
                );
                continue;
            }
            for (reason, failed) in failures {
                let reason = printable(reason);
                text += &format!("{}: {failed} of {count} items: {reason}\n", server.url);
            }
        }
        let substitutable = self.items.iter().filter(|item| item.substitutable);
        text += &format!(
            "{} of {count} items can be substituted\n",
            substitutable.count()
        );
        text
    }
}
