//! What is to be built: a context, its Dockerfile, and the stages that the target needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use engine_kernel::confine::Root;
use engine_model::platform::architecture;
use engine_model::wire::HostConfig;
use engine_model::{Failure, Kind};

use super::dockerfile::Dockerfile;
use super::folder::Folder;
use super::ignore::Ignored;
use super::instruction::Instruction;
use super::outside::{Client, Keys, Outside};
use super::scope::{Given, Scope, of_platforms};
use super::source::LARGEST;
use super::triggers::Triggers;
use super::unpack::{Keep, unpack};
use super::words::expand;

/// What a client wants built.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct Request {
    /// The path of the Dockerfile in the context; empty for `Dockerfile`.
    pub dockerfile: String,
    /// What the image is to be called.
    pub names: Vec<String>,
    pub no_cache: bool,
    /// Stages, by name, whose steps are done anew.
    pub no_cache_stages: Vec<String>,
    /// Asks the registry even for images that are there.
    pub pull: bool,
    /// Containers of steps that succeeded are removed.
    pub remove: bool,
    /// Those of steps that failed as well.
    pub force_remove: bool,
    pub arguments: BTreeMap<String, Option<String>>,
    pub labels: Vec<(String, String)>,
    /// The stage to build; empty for the last one.
    pub target: String,
    /// Limits and networks of the containers that commands run in.
    pub host: HostConfig,
    /// Only this host's can be built; empty for that.
    pub platform: String,
    /// Images whose histories tell of steps as well. Those of this engine's own builds are found without.
    pub cache_from: Vec<String>,
    /// Those of them that are not here are brought from their registries.
    pub pulls_caches: bool,
    /// All that is made on top of the target's base becomes one layer, in an image of its own.
    pub squash: bool,
    /// The result is not shown among the images.
    pub hides_result: bool,
    /// Who the client is to registries.
    pub keys: Keys,
    /// What else than stages and images is known by a name, in small letters.
    pub contexts: BTreeMap<String, Named>,
    /// Where commands find what the client lends them.
    pub client: Option<Arc<dyn Client>>,
}

impl Request {
    /// Refuses what can be refused before there is a context.
    pub fn check(&self) -> Result<(), Failure> {
        only_own_platform(&self.platform)
    }
}

/// What a name means that the client has given a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// An image, by its own name.
    Image(String),
    /// Files, which have to be in [`Plan::folder_of`] before the plan is carried out.
    Folder,
}

/// A Dockerfile that lies in no context.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// How it is called in messages.
    pub name: String,
    pub dockerfile: String,
    /// What `.dockerignore` says.
    pub ignored: String,
}

/// What a plan needs of its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    /// These paths, which may have patterns in them, and what they lead to as links.
    Paths(Vec<String>),
    All,
}

/// A context on disk. It goes with this.
#[derive(Debug)]
pub struct Context {
    pub(crate) folder: Folder,
    /// It is nothing but a Dockerfile, of that name.
    pub(crate) is_dockerfile: bool,
}

impl Context {
    pub(crate) fn files(&self) -> std::path::PathBuf {
        self.folder.path().join("context")
    }

    /// Puts the files of one that was fetched where a folder of this name is to be. Blocks.
    pub fn move_to(self, folder: &Path) -> Result<(), Failure> {
        if self.is_dockerfile {
            let message = "what was fetched is neither an archive nor a repository".to_owned();
            return Err(Failure::new(Kind::Invalid, message));
        }
        fs::rename(self.files(), folder).map_err(|error| Failure::of(Kind::Internal, &error))
    }

    /// One without files. Blocks.
    pub(crate) fn empty(parent: &Path) -> Result<Self, Failure> {
        let internal = |error: std::io::Error| Failure::of(Kind::Internal, &error);
        let folder = Folder::new(parent).map_err(internal)?;
        let context = Self { folder, is_dockerfile: false };
        fs::create_dir(context.files()).map_err(internal)?;
        Ok(context)
    }

    /// Unpacks an archive, compressed or not. Blocks.
    pub(crate) fn receive(parent: &Path, outside: &dyn Outside, archive: impl Read) -> Result<Self, Failure> {
        let context = Self::empty(parent)?;
        context.fill(outside, archive)?;
        Ok(context)
    }

    /// The same into one that is empty. Blocks.
    pub(crate) fn fill(&self, outside: &dyn Outside, archive: impl Read) -> Result<(), Failure> {
        let root = Root::open(&self.files()).map_err(|error| Failure::of(Kind::Internal, &error))?;
        let broken = |error: std::io::Error| {
            Failure::new(Kind::of_archive(&error), format!("Error processing tar file: {error}"))
        };
        let mut archive = outside.decompress(Box::new(archive)).map_err(broken)?;
        unpack(&root, Path::new("/"), &mut archive, Keep::Files).map_err(broken)?;
        // A client that still sends does not listen to the answer.
        let _ = std::io::copy(&mut archive, &mut std::io::sink());
        Ok(())
    }
}

/// Everything that is known before the first step.
#[derive(Debug)]
pub struct Plan {
    pub(crate) request: Request,
    pub(crate) context: Context,
    pub(crate) ignored: Ignored,
    pub(crate) dockerfile: Dockerfile,
    pub(crate) given: Arc<Given>,
    pub(crate) globals: Scope,
    pub(crate) target: usize,
    /// In the order of the Dockerfile.
    pub(crate) needed: BTreeSet<usize>,
    /// By stage, variables put in.
    pub(crate) bases: Vec<String>,
    /// By stage, of its base.
    pub(crate) triggers: Vec<Triggers>,
}

impl Plan {
    /// Reads the Dockerfile of a context. What there is to do is to be found out then. Blocks.
    pub(crate) fn new(context: Context, request: Request) -> Result<Self, Failure> {
        request.check()?;
        let root = Root::open(&context.files()).map_err(|error| Failure::of(Kind::Internal, &error))?;
        let wanted = if context.is_dockerfile { "" } else { &request.dockerfile };
        let (name, text) = dockerfile(&root, wanted)?;
        let ignored = ignored(&root, &name).map_err(|message| Failure::new(Kind::Invalid, message))?;
        Self::understand(context, &name, &text, ignored, request)
    }

    /// Reads a Dockerfile that does not lie in its context. What it says nothing of, the context's own list ignores. What there
    /// is to do is to be found out then. Blocks.
    pub(crate) fn with(context: Context, texts: Texts, request: Request) -> Result<Self, Failure> {
        request.check()?;
        let root = Root::open(&context.files()).map_err(|error| Failure::of(Kind::Internal, &error))?;
        let ignored = match texts.ignored.as_str() {
            "" => ignored(&root, &texts.name),
            own => Ignored::parse(own).map_err(|error| error.to_string()),
        };
        let ignored = ignored.map_err(|message| Failure::new(Kind::Invalid, message))?;
        Self::understand(context, &texts.name, &texts.dockerfile, ignored, request)
    }

    /// Understands a Dockerfile before there is a context. What there is to do is to be found out then.
    pub(crate) fn draft(context: Context, texts: Texts, request: Request) -> Result<Self, Failure> {
        request.check()?;
        let ignored =
            Ignored::parse(&texts.ignored).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
        Self::understand(context, &texts.name, &texts.dockerfile, ignored, request)
    }

    fn understand(
        context: Context,
        name: &str,
        text: &str,
        ignored: Ignored,
        request: Request,
    ) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::new(Kind::Invalid, message);
        if text.trim().is_empty() {
            return Err(invalid(format!("the Dockerfile ({name}) cannot be empty")));
        }
        let mut dockerfile = Dockerfile::parse(text).map_err(|error| invalid(error.to_string()))?;
        let Some(target) = dockerfile.target(&request.target) else {
            return Err(invalid(format!("failed to reach build target {} in Dockerfile", request.target)));
        };
        dockerfile.add_labels(target, &request.labels);
        let given = Arc::new(Given::new(request.arguments.clone()));
        let declarations: Vec<_> = dockerfile
            .globals
            .iter()
            .filter_map(|step| match &step.instruction {
                Instruction::Arg(pairs) => Some(pairs.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let globals = Scope::before_stages(&given, &declarations, dockerfile.escape)
            .map_err(|error| invalid(error.to_string()))?;
        let mut bases = Vec::new();
        for stage in &dockerfile.stages {
            let variables = |name: &str| globals.lookup(name).or_else(|| of_platforms(name));
            let put_in = |text: &str| {
                expand(text, dockerfile.escape, &variables).map_err(|error| {
                    invalid(format!("dockerfile parse error on line {}: {error}", stage.line))
                })
            };
            bases.push(put_in(&stage.base)?);
            if let Some(platform) = &stage.platform {
                only_own_platform(&put_in(platform)?)?;
            }
        }
        let (needed, triggers) = (BTreeSet::new(), Vec::new());
        Ok(Self { request, context, ignored, dockerfile, given, globals, target, needed, bases, triggers })
    }

    /// How many lines are told as steps.
    pub(crate) fn steps(&self) -> usize {
        self.dockerfile.globals.len() + self.steps_before(usize::MAX)
    }

    /// How many of them are of needed stages before this one.
    pub(crate) fn steps_before(&self, stage: usize) -> usize {
        let before = self.needed.iter().filter(|&&needed| needed < stage);
        before.map(|&needed| self.dockerfile.stages[needed].steps.len() + 1).sum()
    }
}

/// Its name, and what it says.
fn dockerfile(root: &Root, wanted: &str) -> Result<(String, String), Failure> {
    let invalid = |message: String| Failure::new(Kind::Invalid, message);
    let candidates: Vec<&str> =
        if wanted.is_empty() { vec!["Dockerfile", "dockerfile"] } else { vec![wanted] };
    for name in &candidates {
        match root.read(Path::new(name), LARGEST as u64) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes)
                    .map_err(|_| invalid(format!("the Dockerfile ({name}) is not text in UTF-8")))?;
                return Ok(((*name).to_owned(), text));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(invalid(format!("Could not read the Dockerfile ({name}): {error}"))),
        }
    }
    Err(invalid(format!("Cannot locate specified Dockerfile: {}", candidates[0])))
}

/// The rules of the Dockerfile's own file, or of the context's.
fn ignored(root: &Root, dockerfile: &str) -> Result<Ignored, String> {
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
        match root.read(Path::new(&name), LARGEST as u64) {
            Ok(bytes) => {
                return Ignored::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| error.to_string());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("Could not read `{name}`: {error}")),
        }
    }
    Ok(Ignored::default())
}

/// Refuses to build for another platform than this host's.
fn only_own_platform(text: &str) -> Result<(), Failure> {
    let parts: Vec<&str> = text.split('/').collect();
    let machine = match parts[..] {
        ["" | "linux" | "local"] => return Ok(()),
        ["linux", machine, ..] | [machine] => machine,
        _ => "",
    };
    let machine = match machine {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    if machine == architecture() {
        return Ok(());
    }
    let message = format!(
        "`platform={text}`: building for another platform than this host's is not supported by this engine"
    );
    Err(Failure::new(Kind::Unsupported, message))
}
