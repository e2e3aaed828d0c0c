//! Substitute servers, if the command line names some: which answer, what they have, and whether that
//! is believed. Others are not asked: who checks an installation may not want to tell anybody.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use formats::{StoreDir, StorePath};
use gcrypt::Acl;
use substitutes::network::{self, GUIX_FETCH, Network};
use substitutes::servers::{ListedBy, Server, parse_list};
use substitutes::settings::{UNAUTHENTICATED_WARNING, is_unauthenticated};
use substitutes::survey::{Answer, Greeting, Report, Standing, survey};

use super::findings::Findings;
use crate::fetcher::is_program;
use crate::settings::Settings;

/// How many items servers are asked for.
const TRIED: usize = 20;
/// How many names in the store are looked at for that.
const LOOKED_AT: usize = 10_000;

pub fn check(settings: &Settings, findings: &mut Findings) {
    if is_unauthenticated() && settings.session.use_substitutes {
        findings.wrong(
            UNAUTHENTICATED_WARNING,
            "unset GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES, and authorise keys: guix-client archive \
             --authorize < KEY.pub",
        );
    }
    let Some(urls) = settings.session.named_servers() else {
        return findings.note(
            "substitute servers are tried if they are named",
            Some("guix-daemon --check-setup --substitute-urls=URLS".to_owned()),
        );
    };
    let servers = match parse_list(&urls, ListedBy::Administrator) {
        Ok(servers) => servers,
        Err(error) => {
            return findings.wrong(
                format!("'--substitute-urls': {error}"),
                "correct the option",
            );
        }
    };
    let directories = &settings.directories;
    // Whichever program the daemon will use, ours can ask.
    let program = match settings.fetcher.is_ours() {
        true => Some(settings.fetcher.program().to_owned()),
        false => GUIX_FETCH.find(&directories.installation),
    };
    let Some(program) = program.filter(|program| is_program(program)) else {
        return findings.note(
            "substitute servers are not tried: only `guix-fetch' can try them",
            None,
        );
    };
    let network = Network::new(move |socket| network::program(&program, socket).spawn());
    let items = some_items(&directories.store);
    let acl = acl(&directories.configuration);
    let mut tell = |row: usize, report: Report| {
        let server = &servers[row];
        if check_greeting(server, &report, &directories.store, findings) {
            check_answers(server, &report.answers, &acl, findings);
        }
    };
    let store = &directories.store;
    if let Err(error) = survey(&network, store, &servers, &items, true, &mut tell) {
        findings.wrong(
            format!("cannot ask substitute servers: {error}"),
            "try again",
        );
    }
}

/// The ACL; without one, nothing is authorised. What is wrong with it is reported elsewhere.
fn acl(configuration: &Path) -> Acl {
    // Reading it when there is none would create it.
    match configuration.join("acl").exists() {
        true => Acl::load(configuration).unwrap_or_default(),
        false => Acl::default(),
    }
}

/// Some items that other machines may have, too.
fn some_items(store: &StoreDir) -> Vec<StorePath> {
    let names = fs::read_dir(store.as_path()).into_iter().flatten();
    let names = names.flatten().take(LOOKED_AT);
    let mut items: Vec<StorePath> = names
        .filter_map(|entry| store.join(entry.file_name().to_str()?).ok())
        .filter(|item| item.is_well_formed() && !item.is_derivation())
        .collect();
    items.sort();
    items.truncate(TRIED);
    items
}

/// Whether a server answers, for this store as far as that is known.
fn check_greeting(
    server: &Arc<Server>,
    report: &Report,
    store: &StoreDir,
    findings: &mut Findings,
) -> bool {
    let name = format!("the substitute server `{server}'");
    let remedy = format!("curl {}", server.url_of("nix-cache-info"));
    if let Some(reason) = &report.given_up {
        findings.wrong(format!("{name} does not answer: {reason}"), remedy);
        return false;
    }
    let is_answer = |answer: &Answer| !matches!(answer, Answer::Failed(_));
    let answers_for_items = report.answers.iter().any(is_answer);
    match &report.greeting {
        Some(Greeting::Store(of)) if of == store.as_str() => {
            findings.right(format!("{name} answers"));
        }
        Some(Greeting::Store(of)) => {
            findings.wrong(
                format!("{name} is for the store `{of}'"),
                format!("name servers for `{store}'"),
            );
            return false;
        }
        // Guix doesn't need to know.
        Some(Greeting::Unknown(reason)) => findings.note(
            format!("{name} answers, but does not say which store it is for: {reason}"),
            None,
        ),
        Some(Greeting::Failed(reason)) if answers_for_items => findings.note(
            format!("{name} does not say which store it is for: {reason}"),
            None,
        ),
        Some(Greeting::Failed(reason)) => {
            findings.wrong(format!("{name} does not answer: {reason}"), remedy);
            return false;
        }
        None => {}
    }
    true
}

/// What a server has, and whether that is believed.
fn check_answers(server: &Arc<Server>, answers: &[Answer], acl: &Acl, findings: &mut Findings) {
    let tried = answers.len();
    let mut standings = Vec::new();
    for answer in answers {
        match answer {
            Answer::Has(narinfo) => standings.push(Standing::of(narinfo, acl)),
            Answer::HasNot => {}
            Answer::Failed(reason) => {
                let text = format!("`{server}' cannot be asked for items: {reason}");
                return findings.wrong(text, format!("curl {}", server.url()));
            }
        }
    }
    if tried == 0 {
        return findings.note(
            format!("`{server}' is not asked for items: there are none in the store to try"),
            None,
        );
    }
    let has = format!("`{server}' has {} of {tried} items tried", standings.len());
    let believed = |standing: &&Standing| matches!(standing, Standing::Authorised(_));
    match (standings.first(), standings.iter().filter(believed).count()) {
        (None, _) => findings.note(has, None),
        (Some(standing), 0) => {
            let why = match standing {
                Standing::Unauthorised(key) => format!("the key {key} is not authorised"),
                Standing::Unsigned => "they are not signed".to_owned(),
                _ => "their signatures are not valid".to_owned(),
            };
            findings.note(
                format!("{has}, but they are not believed: {why}"),
                Some("guix-client archive --authorize < KEY.pub".to_owned()),
            );
        }
        (_, count) => findings.right(format!("{has}, {count} signed by an authorised key")),
    }
}
