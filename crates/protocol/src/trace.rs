//! Trace lines: reports about builds from a daemon, a build hook or a substituter in a form that
//! programs parse, such as `@ build-succeeded /gnu/store/….drv -`.
//!
//! A line is `@ `, the event's name and its fields, separated by single spaces. Clients get these
//! lines in the daemon's log if they set `print-build-trace`; Guix's `(guix status)` parses them.
//! The table of lines is in `doc/spec/worker-protocol.md`, section 8; the lines that a hook prints
//! are in `doc/spec/hook-protocol.md`.
//!
//! Fields contain text from untrusted sources: a derivation names its own system, and a build
//! machine's error is part of a message. So [`Trace`]'s `Display` escapes control characters in
//! every field (see [`formats::printable`]), and spaces too in all but the last, so that no text
//! can add a line, a field or a terminal's escape sequence. Ordinary text is written as it is.

use std::fmt;

use formats::printable::{printable, printable_word};

/// One trace line.
///
/// ```
/// use protocol::trace::{BuildFailure, Trace};
///
/// let trace = Trace::BuildFailed {
///     derivation: "/gnu/store/0s…-hello.drv",
///     failure: BuildFailure::Other { status: 1, message: "builder failed" },
/// };
/// let line = trace.to_string();
/// assert_eq!(line, "@ build-failed /gnu/store/0s…-hello.drv - 1 builder failed");
/// assert_eq!(Trace::parse(&line), Some(trace));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace<'a> {
    /// `@ build-log PID LENGTH`: that many bytes of a builder's output follow the line. Sent to
    /// clients that set `multiplexed-build-output`.
    BuildLog {
        /// The builder's process id, as in [`Trace::BuildStarted`].
        pid: u32,
        /// The length in bytes.
        length: u64,
    },
    /// `@ build-started DRV - SYSTEM LOG PID`: a builder was started, or a hook has accepted the
    /// build.
    BuildStarted {
        /// The derivation's store path.
        derivation: &'a str,
        /// The derivation's system, such as `x86_64-linux`.
        system: &'a str,
        /// The log file; empty if logs are not kept.
        log_file: &'a str,
        /// The process id of the builder or the hook; older daemons omit it for hooks.
        pid: Option<u32>,
    },
    /// `@ build-succeeded DRV -`: the outputs are registered.
    BuildSucceeded {
        /// The derivation's store path.
        derivation: &'a str,
    },
    /// `@ build-failed DRV - timeout`, `… - cached` or `… - STATUS MESSAGE`.
    BuildFailed {
        /// The derivation's store path.
        derivation: &'a str,
        /// Why it failed.
        failure: BuildFailure<'a>,
    },
    /// `@ hook-failed DRV - STATUS MESSAGE`: the hook failed, which doesn't mean that the build
    /// would.
    HookFailed {
        /// The derivation's store path.
        derivation: &'a str,
        /// The hook's raw wait status.
        status: i32,
        /// The reason in words.
        message: &'a str,
    },
    /// `@ unsupported-platform DRV SYSTEM`: the builder can't run on this machine.
    UnsupportedPlatform {
        /// The derivation's store path.
        derivation: &'a str,
        /// The derivation's system.
        system: &'a str,
    },
    /// `@ hash-mismatch PATH ALGORITHM EXPECTED ACTUAL`: a fixed output or a substitute doesn't
    /// have the expected hash.
    HashMismatch {
        /// The output's store path.
        path: &'a str,
        /// The algorithm, such as `sha256` or `r:sha256`.
        algorithm: &'a str,
        /// The expected hash, in the store's base-32 (MD5: hexadecimal).
        expected: &'a str,
        /// The actual hash.
        actual: &'a str,
    },
    /// `@ substituter-started PATH substitute`.
    SubstituterStarted {
        /// The item's store path.
        path: &'a str,
    },
    /// `@ substituter-succeeded PATH`.
    SubstituterSucceeded {
        /// The item's store path.
        path: &'a str,
    },
    /// `@ substituter-failed PATH REASON`.
    SubstituterFailed {
        /// The item's store path.
        path: &'a str,
        /// `timeout`, or the substituter's status (any number of words) and a message.
        reason: &'a str,
    },
    /// `@ build-remote DRV MACHINE`: an offload hook sends the build to a machine.
    BuildRemote {
        /// The derivation's store path.
        derivation: &'a str,
        /// The machine's name.
        machine: &'a str,
    },
    /// `@ build-postponed DRV REASON`: an offload hook has no machine for the build now. Only for our
    /// daemon, which asks for it (`GUIX_OFFLOAD_REASONS`) and does not pass it on.
    BuildPostponed {
        /// The derivation's store path.
        derivation: &'a str,
        /// Why, in words.
        reason: &'a str,
    },
    /// `@ build-verdict DRV REASON`: a build has failed on a machine, and this is what its daemon says of it.
    /// Only for our daemon, like [`Trace::BuildPostponed`].
    BuildVerdict {
        /// The derivation's store path.
        derivation: &'a str,
        /// Why, in words.
        reason: &'a str,
    },
    /// `@ download-started FILE URL SIZE`.
    DownloadStarted {
        /// The file that is being written.
        file: &'a str,
        /// Where it comes from.
        url: &'a str,
        /// The size of the (compressed) download in bytes, if known.
        size: Option<u64>,
    },
    /// `@ download-progress FILE URL SIZE TRANSFERRED`.
    DownloadProgress {
        /// The file that is written.
        file: &'a str,
        /// Where it comes from.
        url: &'a str,
        /// The size of the (compressed) download in bytes, if known.
        size: Option<u64>,
        /// The number of bytes received so far.
        transferred: u64,
    },
    /// `@ download-succeeded FILE URL SIZE`.
    DownloadSucceeded {
        /// The file that was written.
        file: &'a str,
        /// Where it came from.
        url: &'a str,
        /// The size of the (compressed) download in bytes, if known.
        size: Option<u64>,
    },
}

/// Why a build failed, in a [`Trace::BuildFailed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildFailure<'a> {
    /// It timed out, was silent for too long or printed too much.
    Timeout,
    /// It failed before, and failures are cached.
    Cached,
    /// Any other reason.
    Other {
        /// 1 if the builder failed or its output was rejected, 0 if the build was not started.
        status: i32,
        /// The reason in words.
        message: &'a str,
    },
}

impl fmt::Display for Trace<'_> {
    /// The line, without the line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@ {}", self.name())?;
        let word = |f: &mut fmt::Formatter<'_>, word| write!(f, " {}", printable_word(word));
        match *self {
            Trace::BuildLog { pid, length } => write!(f, " {pid} {length}"),
            Trace::BuildStarted {
                derivation,
                system,
                log_file,
                pid,
            } => {
                word(f, derivation)?;
                f.write_str(" -")?;
                word(f, system)?;
                word(f, log_file)?;
                pid.map_or(Ok(()), |pid| write!(f, " {pid}"))
            }
            Trace::BuildSucceeded { derivation } => {
                word(f, derivation)?;
                f.write_str(" -")
            }
            Trace::BuildFailed {
                derivation,
                failure,
            } => {
                word(f, derivation)?;
                match failure {
                    BuildFailure::Timeout => f.write_str(" - timeout"),
                    BuildFailure::Cached => f.write_str(" - cached"),
                    BuildFailure::Other { status, message } => {
                        write!(f, " - {status} {}", printable(message))
                    }
                }
            }
            Trace::HookFailed {
                derivation,
                status,
                message,
            } => {
                word(f, derivation)?;
                write!(f, " - {status} {}", printable(message))
            }
            Trace::UnsupportedPlatform { derivation, system } => {
                word(f, derivation)?;
                word(f, system)
            }
            Trace::HashMismatch {
                path,
                algorithm,
                expected,
                actual,
            } => [path, algorithm, expected, actual]
                .into_iter()
                .try_for_each(|field| word(f, field)),
            Trace::SubstituterStarted { path } => {
                word(f, path)?;
                f.write_str(" substitute")
            }
            Trace::SubstituterSucceeded { path } => word(f, path),
            Trace::SubstituterFailed { path, reason }
            | Trace::BuildPostponed {
                derivation: path,
                reason,
            }
            | Trace::BuildVerdict {
                derivation: path,
                reason,
            } => {
                word(f, path)?;
                write!(f, " {}", printable(reason))
            }
            Trace::BuildRemote {
                derivation,
                machine,
            } => {
                word(f, derivation)?;
                word(f, machine)
            }
            Trace::DownloadStarted { file, url, size }
            | Trace::DownloadProgress {
                file, url, size, ..
            }
            | Trace::DownloadSucceeded { file, url, size } => {
                word(f, file)?;
                word(f, url)?;
                match size {
                    Some(size) => write!(f, " {size}")?,
                    None => f.write_str(" -")?,
                }
                match *self {
                    Trace::DownloadProgress { transferred, .. } => write!(f, " {transferred}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl<'a> Trace<'a> {
    /// The event's name, which follows `@ `.
    fn name(&self) -> &'static str {
        match self {
            Trace::BuildLog { .. } => "build-log",
            Trace::BuildStarted { .. } => "build-started",
            Trace::BuildSucceeded { .. } => "build-succeeded",
            Trace::BuildFailed { .. } => "build-failed",
            Trace::HookFailed { .. } => "hook-failed",
            Trace::UnsupportedPlatform { .. } => "unsupported-platform",
            Trace::HashMismatch { .. } => "hash-mismatch",
            Trace::SubstituterStarted { .. } => "substituter-started",
            Trace::SubstituterSucceeded { .. } => "substituter-succeeded",
            Trace::SubstituterFailed { .. } => "substituter-failed",
            Trace::BuildRemote { .. } => "build-remote",
            Trace::BuildPostponed { .. } => "build-postponed",
            Trace::BuildVerdict { .. } => "build-verdict",
            Trace::DownloadStarted { .. } => "download-started",
            Trace::DownloadProgress { .. } => "download-progress",
            Trace::DownloadSucceeded { .. } => "download-succeeded",
        }
    }

    /// Whether a line that begins like `line` can be an event that a builder's output may carry:
    /// [`Trace::BuildRemote`], which a hook prints, or one of the downloads, which a builtin
    /// builder prints. Any other event there is forged, and so is a [`Trace::BuildRemote`] of a derivation
    /// that this process does not build.
    pub fn may_begin_builder_event(line: &[u8]) -> bool {
        [&b"@ build-remote "[..], b"@ download-"]
            .iter()
            .any(|prefix| line.starts_with(prefix) || prefix.starts_with(line))
    }

    /// Parses a line, with or without a line feed or carriage return at its end; `None` if it isn't
    /// a known trace line. Extra fields are ignored.
    ///
    /// Fields are as the sender wrote them, which may be another daemon: they may contain control
    /// characters.
    pub fn parse(line: &'a str) -> Option<Trace<'a>> {
        let line = line.trim_end_matches(['\n', '\r']);
        let mut fields = Fields(Some(line.strip_prefix("@ ")?));
        let trace = match fields.word()? {
            "build-log" => Trace::BuildLog {
                pid: fields.number()?,
                length: fields.number()?,
            },
            "build-started" => Trace::BuildStarted {
                derivation: fields.derivation()?,
                system: fields.word()?,
                log_file: fields.word()?,
                pid: fields.number(),
            },
            "build-succeeded" => Trace::BuildSucceeded {
                derivation: fields.derivation()?,
            },
            "build-failed" => Trace::BuildFailed {
                derivation: fields.derivation()?,
                failure: match fields.word()? {
                    "timeout" => BuildFailure::Timeout,
                    "cached" => BuildFailure::Cached,
                    status => BuildFailure::Other {
                        status: status.parse().ok()?,
                        message: fields.rest(),
                    },
                },
            },
            "hook-failed" => Trace::HookFailed {
                derivation: fields.derivation()?,
                status: fields.number()?,
                message: fields.rest(),
            },
            "unsupported-platform" => Trace::UnsupportedPlatform {
                derivation: fields.word()?,
                system: fields.word()?,
            },
            "hash-mismatch" => Trace::HashMismatch {
                path: fields.word()?,
                algorithm: fields.word()?,
                expected: fields.word()?,
                actual: fields.word()?,
            },
            "substituter-started" => Trace::SubstituterStarted {
                path: fields.word()?,
            },
            "substituter-succeeded" => Trace::SubstituterSucceeded {
                path: fields.word()?,
            },
            "substituter-failed" => Trace::SubstituterFailed {
                path: fields.word()?,
                reason: fields.rest(),
            },
            "build-remote" => Trace::BuildRemote {
                derivation: fields.word()?,
                machine: fields.word()?,
            },
            "build-postponed" => Trace::BuildPostponed {
                derivation: fields.word()?,
                reason: fields.rest(),
            },
            "build-verdict" => Trace::BuildVerdict {
                derivation: fields.word()?,
                reason: fields.rest(),
            },
            "download-started" => Trace::DownloadStarted {
                file: fields.word()?,
                url: fields.word()?,
                size: fields.size()?,
            },
            "download-progress" => Trace::DownloadProgress {
                file: fields.word()?,
                url: fields.word()?,
                size: fields.size()?,
                transferred: fields.number()?,
            },
            "download-succeeded" => Trace::DownloadSucceeded {
                file: fields.word()?,
                url: fields.word()?,
                size: fields.size()?,
            },
            _ => return None,
        };
        Some(trace)
    }
}

/// The remaining fields of a line; `None` after the last.
struct Fields<'a>(Option<&'a str>);

impl<'a> Fields<'a> {
    /// The next field, which may be empty.
    fn word(&mut self) -> Option<&'a str> {
        let (word, rest) = match self.0?.split_once(' ') {
            Some((word, rest)) => (word, Some(rest)),
            None => (self.0?, None),
        };
        self.0 = rest;
        Some(word)
    }

    fn number<N: std::str::FromStr>(&mut self) -> Option<N> {
        self.word()?.parse().ok()
    }

    /// A number of bytes, or `-`.
    fn size(&mut self) -> Option<Option<u64>> {
        match self.word()? {
            "-" => Some(None),
            size => size.parse().ok().map(Some),
        }
    }

    /// A derivation, and the `-` after it, where there used to be an output's path.
    fn derivation(&mut self) -> Option<&'a str> {
        let derivation = self.word()?;
        self.word()?;
        Some(derivation)
    }

    /// The rest of the line.
    fn rest(&mut self) -> &'a str {
        self.0.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Owned fields, from which the tests make traces.
    #[derive(Clone, Debug)]
    struct Parts {
        kind: usize,
        words: [String; 4],
        text: String,
        size: Option<u64>,
        number: u64,
    }

    impl Parts {
        fn trace(&self) -> Trace<'_> {
            let [a, b, c, d] = self.words.each_ref().map(String::as_str);
            let (text, size) = (self.text.as_str(), self.size);
            let (pid, status) = (self.number as u32, self.number as i32);
            let failed = |failure| Trace::BuildFailed {
                derivation: a,
                failure,
            };
            match self.kind {
                0 => Trace::BuildLog {
                    pid,
                    length: self.number,
                },
                1 => Trace::BuildStarted {
                    derivation: a,
                    system: b,
                    log_file: c,
                    pid: size.map(|_| pid),
                },
                2 => Trace::BuildSucceeded { derivation: a },
                3 => failed(BuildFailure::Timeout),
                4 => failed(BuildFailure::Cached),
                5 => failed(BuildFailure::Other {
                    status,
                    message: text,
                }),
                6 => Trace::HookFailed {
                    derivation: a,
                    status,
                    message: text,
                },
                7 => Trace::UnsupportedPlatform {
                    derivation: a,
                    system: b,
                },
                8 => Trace::HashMismatch {
                    path: a,
                    algorithm: b,
                    expected: c,
                    actual: d,
                },
                9 => Trace::SubstituterStarted { path: a },
                10 => Trace::SubstituterSucceeded { path: a },
                11 => Trace::SubstituterFailed {
                    path: a,
                    reason: text,
                },
                12 => Trace::BuildRemote {
                    derivation: a,
                    machine: b,
                },
                13 => Trace::DownloadStarted {
                    file: a,
                    url: b,
                    size,
                },
                14 => Trace::DownloadProgress {
                    file: a,
                    url: b,
                    size,
                    transferred: self.number,
                },
                15 => Trace::DownloadSucceeded {
                    file: a,
                    url: b,
                    size,
                },
                16 => Trace::BuildPostponed {
                    derivation: a,
                    reason: text,
                },
                _ => Trace::BuildVerdict {
                    derivation: a,
                    reason: text,
                },
            }
        }
    }

    fn parts(word: &'static str, text: &'static str) -> impl Strategy<Value = Parts> {
        let words = [word, word, word, word];
        (0..18_usize, words, text, any::<Option<u64>>(), any::<u64>()).prop_map(
            |(kind, words, text, size, number)| Parts {
                kind,
                words,
                text,
                size,
                number,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in parts("[!-~äé]{0,20}", "[ -~äé]{0,40}")) {
            let line = parts.trace().to_string();
            prop_assert_eq!(Trace::parse(&line), Some(parts.trace()));
            let line = line + "\n";
            prop_assert_eq!(Trace::parse(&line), Some(parts.trace()));
        }

        #[test]
        fn no_text_adds_a_line_a_field_or_an_escape(parts in parts("(?s).{0,20}", "(?s).{0,40}")) {
            let line = parts.trace().to_string();
            prop_assert!(!line.contains(char::is_control));
            let read = Trace::parse(&line).unwrap();
            prop_assert_eq!(read.name(), parts.trace().name());
            prop_assert_eq!(read.to_string(), line);
        }

        #[test]
        fn any_line_is_read_or_refused(name in "[a-z-]{0,20}", rest in "(?s).{0,60}") {
            let _ = Trace::parse(&format!("@ {name} {rest}"));
            let _ = Trace::parse(&rest);
        }
    }

    #[test]
    fn builders_have_events_of_hooks_and_downloads_only() {
        for line in [
            "",
            "@",
            "@ build-rem",
            "@ build-remote /x.drv machine",
            "@ download-st",
            "@ download-started /x http://x -",
        ] {
            assert!(Trace::may_begin_builder_event(line.as_bytes()), "{line}");
        }
        for line in ["x", "@ x", "@ build-succeeded /x.drv -", "@ build-remote\n"] {
            assert!(!Trace::may_begin_builder_event(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn a_system_cannot_forge_a_line() {
        let system = "x86_64-linux\n@ build-succeeded /gnu/store/x.drv -";
        let trace = Trace::UnsupportedPlatform {
            derivation: "/gnu/store/x.drv",
            system,
        };
        assert_eq!(
            trace.to_string(),
            "@ unsupported-platform /gnu/store/x.drv \
             x86_64-linux\\n@\\u{20}build-succeeded\\u{20}/gnu/store/x.drv\\u{20}-"
        );
    }

    #[test]
    fn lines_of_other_daemons_are_read() {
        assert_eq!(
            Trace::parse("@ build-started /x.drv - x86_64-linux \n"),
            Some(Trace::BuildStarted {
                derivation: "/x.drv",
                system: "x86_64-linux",
                log_file: "",
                pid: None,
            })
        );
        assert_eq!(
            Trace::parse("@ substituter-failed /x timeout"),
            Some(Trace::SubstituterFailed {
                path: "/x",
                reason: "timeout",
            })
        );
        for line in [
            "@ build-log 12",
            "@ build-log x 1",
            "@ new-event 1",
            "build-log 1 2",
            "@ ",
        ] {
            assert_eq!(Trace::parse(line), None, "{line}");
        }
    }
}
