//! The stage in the initramfs: mounts the root image under a layer of memory and hands over to the init in it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_move};

use crate::console;
use crate::error::BootError;
use crate::kernel;

/// The modules which the root image itself needs, in the order of their names.
const MODULES: &str = "/modules";
/// `LOOP_SET_FD` of linux/loop.h.
const LOOP_SET_FD: rustix::ioctl::Opcode = 0x4C00;

/// Comes back only when there is no way on.
pub(crate) fn run(image: &str) -> ExitCode {
    let failure = match switch(Path::new(image)) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    console::report(&failure);
    console::say("The root file system is missing, nothing can be started");
    // The kernel panics when its first process ends; the console shall have time to carry the words above.
    std::thread::sleep(Duration::from_secs(2));
    ExitCode::FAILURE
}

fn switch(image: &Path) -> Result<std::convert::Infallible, BootError> {
    for folder in ["/dev", "/image", "/memory", "/root"] {
        crate::error::make_folder(Path::new(folder))?;
    }
    attach("devtmpfs", "devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755")?;
    load_modules()?;
    attach_loop(image)?;
    attach("/dev/loop0", "squashfs", "/image", MountFlags::RDONLY, c"")?;
    attach("tmpfs", "tmpfs", "/memory", MountFlags::empty(), c"mode=0755")?;
    for folder in ["/memory/upper", "/memory/work"] {
        crate::error::make_folder(Path::new(folder))?;
    }
    let layers = c"lowerdir=/image,upperdir=/memory/upper,workdir=/memory/work";
    attach("overlay", "overlay", "/root", MountFlags::NOATIME, layers)?;
    // What stays in the initramfs stays in memory for good.
    let _ = fs::remove_dir_all(MODULES);
    let _ = fs::remove_file("/init");

    let failed = |source: rustix::io::Errno| BootError::SwitchRoot { source: source.into() };
    mount_move("/dev", "/root/dev").map_err(failed)?;
    rustix::process::chdir("/root").map_err(failed)?;
    mount_move(".", "/").map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)?;
    let source = Command::new("/sbin/init").exec();
    Err(BootError::SwitchRoot { source })
}

fn attach(
    source: &str,
    kind: &str,
    target: &str,
    flags: MountFlags,
    data: &std::ffi::CStr,
) -> Result<(), BootError> {
    mount(source, target, kind, flags, data).map_err(|error| BootError::Mount {
        what: format!("{kind} `{source}`"),
        target: target.into(),
        source: error.into(),
    })
}

fn load_modules() -> Result<(), BootError> {
    let failed = |source| BootError::Read { path: MODULES.into(), source };
    let mut files = fs::read_dir(MODULES)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
        })
        .map_err(failed)?;
    files.sort();
    for file in files {
        kernel::insert(&file)
            .map_err(|source| BootError::Module { module: file.display().to_string(), source })?;
    }
    Ok(())
}

fn attach_loop(image: &Path) -> Result<(), BootError> {
    let failed = |source| BootError::Loop { image: image.to_owned(), source };
    let file = fs::File::open(image).map_err(failed)?;
    let device = fs::File::open("/dev/loop0").map_err(failed)?;
    let descriptor = usize::try_from(file.as_raw_fd()).unwrap_or_default();
    #[expect(unsafe_code, reason = "there is no safe call that sets up a loop device")]
    // SAFETY: LOOP_SET_FD takes a file descriptor as its plain integer argument; `file` is open during the call.
    let outcome = unsafe {
        let request = rustix::ioctl::IntegerSetter::<LOOP_SET_FD>::new_usize(descriptor);
        rustix::ioctl::ioctl(&device, request)
    };
    outcome.map_err(|error| failed(error.into()))
}
