//! The file that is being downloaded, and its hash so far.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use formats::derivation::FixedHash;
use formats::hash::HashWriter;
use formats::nar::{self, Sink};
use formats::{Algorithm, Hash, Hasher};

/// The file. It is created when the first byte arrives.
pub struct Output {
    path: PathBuf,
    file: Option<File>,
    recursive: bool,
    executable: bool,
    algorithm: Algorithm,
    hasher: Option<Hasher>,
    size: u64,
    begun: bool,
}

impl Output {
    /// A file at `path`, which is to have this hash.
    pub fn new(path: &Path, expected: FixedHash, executable: bool) -> Output {
        Output {
            path: path.to_owned(),
            file: None,
            recursive: expected.recursive,
            executable,
            algorithm: expected.hash.algorithm(),
            hasher: None,
            size: 0,
            begun: false,
        }
    }

    /// A file at `path` whose hash nobody asks for.
    pub fn unhashed(path: &Path) -> Output {
        let any = FixedHash {
            recursive: true,
            hash: Hash::sha256(""),
        };
        Output::new(path, any, false)
    }

    /// Begins anew with an empty file.
    pub fn restart(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        let options = options.mode(0o644).custom_flags(libc::O_NOFOLLOW);
        self.file = Some(options.open(&self.path)?);
        // The hash of an archive depends on the size, which is known at the end.
        self.hasher = (!self.recursive).then(|| Hasher::new(self.algorithm));
        self.size = 0;
        self.begun = true;
        Ok(())
    }

    /// Whether anything was written since [`Output::forget`].
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Leaves the file as it is, until something else is written.
    pub fn forget(&mut self) {
        self.file = None;
        self.begun = false;
        self.size = 0;
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.restart()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(data)?;
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
        self.size += data.len() as u64;
        Ok(())
    }

    /// Ends the file; returns its hash, of the kind that is expected.
    pub fn finish(&mut self) -> io::Result<Hash> {
        if self.file.is_none() {
            self.restart()?;
        }
        if self.executable {
            if let Some(file) = &self.file {
                file.set_permissions(Permissions::from_mode(0o755))?;
            }
        }
        let contents = self.file.take();
        if let Some(hasher) = self.hasher.take() {
            return Ok(hasher.finish().0);
        }
        let mut writer = nar::Writer::new(HashWriter::new(io::sink(), self.algorithm));
        if let Some(mut contents) = contents {
            contents.rewind()?;
            writer.regular(self.executable, self.size, &mut contents)?;
        }
        let (_, hash, _) = writer.into_inner().finish();
        Ok(hash)
    }

    /// Removes what there is.
    pub fn remove(&mut self) {
        self.file = None;
        self.size = 0;
        // There may be nothing.
        let _ = fs::remove_file(&self.path);
    }
}
