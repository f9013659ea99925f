//! Packages of the image's Debian release, through an apt configuration of our own: the host's packages, release and
//! privileges play no part; its mirror does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::tools::{make_folder, output};
use super::{RELEASE, cache, say};

/// Lists of packages older than this are fetched again.
const LISTS_AGE: Duration = Duration::from_hours(7 * 24);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One package as apt would download it.
#[derive(Debug, Clone)]
pub(super) struct Package {
    name: String,
    file: String,
    size: u64,
    /// Name, version and digest: what it takes to be the same package.
    pub(super) line: String,
}

/// The archive, with our own lists and downloads.
#[derive(Debug)]
pub(super) struct Repository {
    folder: PathBuf,
    downloads: PathBuf,
}

impl Repository {
    /// Prepares the configuration and fetches the lists if they are missing or old.
    pub(super) fn open() -> Result<Repository> {
        let repository = Repository { folder: cache().join("apt"), downloads: cache().join("debs") };
        for folder in ["lists/partial", "cache/archives/partial", "state"] {
            make_folder(&repository.folder.join(folder))?;
        }
        make_folder(&repository.downloads)?;
        fs::write(repository.folder.join("status"), "")?;
        fs::write(repository.folder.join("sources.list"), sources()?)?;
        let mark = repository.folder.join("updated");
        let age =
            fs::metadata(&mark).and_then(|facts| facts.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_none_or(|age| age > LISTS_AGE) {
            say(&format!("fetching the package lists of Debian {RELEASE}"));
            match output(repository.apt("apt-get").args(["--quiet", "update"])) {
                Ok(_) => fs::write(&mark, "")?,
                Err(failure) if age.is_some() => say(&format!("the old package lists have to do: {failure}")),
                Err(failure) => return Err(failure.context("Could not fetch the package lists")),
            }
        }
        Ok(repository)
    }

    /// A command of apt that knows only this folder.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        if is_root() {
            // The user that apt downloads as may not be allowed to see this folder.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    }

    /// The versions that would be installed now. Asked for in an empty folder: apt leaves out what is there already.
    pub(super) fn resolve(&self, names: &[&str]) -> Result<Vec<Package>> {
        let listing = output(
            self.apt("apt-get")
                .args(["--quiet", "--print-uris", "download"])
                .args(names)
                .current_dir(self.folder.join("state")),
        )
        .context("Could not find the packages")?;
        let mut packages =
            listing.lines().filter(|line| line.starts_with('\'')).map(parse).collect::<Result<Vec<_>>>()?;
        packages.sort_by(|one, other| one.name.cmp(&other.name));
        if packages.len() != names.len() {
            bail!("Asked for {} packages and got {}: {listing}", names.len(), packages.len());
        }
        Ok(packages)
    }

    /// The package behind a name that only stands for the current version, like `linux-image-amd64`.
    pub(super) fn behind(&self, name: &str) -> Result<String> {
        let listing = output(self.apt("apt-cache").args(["depends", name]))?;
        let first = listing.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(first.with_context(|| format!("`{name}` depends on nothing"))?.to_owned())
    }

    /// Downloads what is not there yet.
    pub(super) fn fetch(&self, packages: &[Package]) -> Result<Vec<PathBuf>> {
        let path = |package: &Package| self.downloads.join(&package.file);
        let is_there =
            |package: &&Package| fs::metadata(path(package)).is_ok_and(|facts| facts.len() == package.size);
        let missing: Vec<&Package> = packages.iter().filter(|package| !is_there(package)).collect();
        if !missing.is_empty() {
            let size: u64 = missing.iter().map(|package| package.size).sum();
            say(&format!("downloading {} packages, {} MB", missing.len(), size / 1_000_000));
            let names = missing.iter().map(|package| &package.name);
            // apt checks the digests of what it downloads.
            output(
                self.apt("apt-get").args(["--quiet", "download"]).args(names).current_dir(&self.downloads),
            )
            .context("Could not download the packages")?;
        }
        Ok(packages.iter().map(path).collect())
    }

    /// What installing some packages on nothing would take, the essential ones included, with versions and digests.
    pub(super) fn closure(&self, names: &[&str]) -> Result<String> {
        let listing = output(
            self.apt("apt-get")
                .args(["--quiet", "--yes", "--print-uris", "install", "?essential"])
                .args(names)
                .current_dir(self.folder.join("state")),
        )
        .context("Could not find the packages")?;
        let mut lines =
            listing.lines().filter(|line| line.starts_with('\'')).map(parse).collect::<Result<Vec<_>>>()?;
        lines.sort_by(|one, other| one.line.cmp(&other.line));
        Ok(lines.iter().map(|package| package.line.clone() + "\n").collect())
    }

    /// The lines of the source list, for tools that bring their own apt.
    pub(super) fn sources(&self) -> PathBuf {
        self.folder.join("sources.list")
    }
}

/// `'URI' name_version_arch.deb size SHA256:digest`
fn parse(line: &str) -> Result<Package> {
    let mut words = line.split_whitespace().skip(1);
    let (Some(file), Some(size)) = (words.next(), words.next()) else {
        bail!("apt printed `{line}`");
    };
    // `install`, unlike `download`, leaves the digest out; apt checks it all the same.
    let digest = words.next().unwrap_or(size);
    let (name, rest) = file.split_once('_').with_context(|| format!("apt printed `{line}`"))?;
    if file.contains('/') {
        bail!("apt printed `{line}`");
    }
    let version = rest.rsplit_once('_').map_or(rest, |(version, _)| version).replace("%3a", ":");
    Ok(Package {
        name: name.to_owned(),
        file: file.to_owned(),
        size: size.parse()?,
        line: format!("{name}={version} {digest}"),
    })
}

impl Package {
    pub(super) fn version(&self) -> &str {
        self.line.split(['=', ' ']).nth(1).unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The host's own mirrors of Debian, whatever release of it the host runs.
fn sources() -> Result<String> {
    let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
    let targets =
        output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let mirror = |label: &str| {
        targets.lines().find_map(|line| line.strip_prefix("Debian|")?.strip_prefix(label)?.strip_prefix('|'))
    };
    let (Some(main), Some(security)) = (mirror("Debian"), mirror("Debian-Security")) else {
        bail!(
            "The images are made on Debian: no mirror of Debian and its security updates is in apt's sources (run `apt-get update`)"
        );
    };
    let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    Ok(format!(
        "deb {signed}{main} {RELEASE} main\ndeb {signed}{main} {RELEASE}-updates main\ndeb {signed}{security} {RELEASE}-security main\n"
    ))
}

/// Whether this process is root's, told by its entry in /proc.
pub(super) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|facts| facts.uid() == 0)
}

/// The time that all files of an image carry: when its kernel was built, or what the caller asks for.
pub(super) fn epoch(of: &Path) -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.trim().parse().with_context(|| format!("`SOURCE_DATE_EPOCH` is `{text}`, not a number"));
    }
    let modified = fs::metadata(of)?.modified()?;
    Ok(modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}
