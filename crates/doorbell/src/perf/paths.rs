//! Several paths to one namespace: each is driven as if it were alone, which is worth knowing.

use std::{
    collections::BTreeMap,
    fmt::Write,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use doorbell_load::Target;

/// What to say of the namespaces that are reached through several controllers; nothing where there are none.
pub fn describe(targets: &[Target]) -> String {
    let mut namespaces: BTreeMap<String, Vec<&Target>> = BTreeMap::new();
    for target in targets {
        let Some(identifier) = target.namespace.identifier() else { continue };
        let paths = namespaces.entry(identifier).or_default();
        // A namespace that was asked for twice is still on one path.
        if !paths.iter().any(|known| known.controller.is(&target.controller)) {
            paths.push(target);
        }
    }
    let mut text = String::new();
    for (identifier, paths) in namespaces.iter().filter(|(_, paths)| paths.len() > 1) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "These are {} paths to one namespace ({identifier}); each has its own row, and the load on the namespace is their sum:",
            paths.len()
        );
        for Target { controller, namespace } in paths {
            let state = namespace.ana_state.map_or("no ANA state", |state| state.name());
            let (port, id) = (&controller.id().trsvcid, controller.cntlid());
            let _ = writeln!(text, "  {}, port {port}, controller {id}: {state}", namespace.name);
        }
    }
    text
}

/// Refuses namespaces that are tested over more than one path, where what is written over one would be wrong over the other.
pub fn refuse_twice(targets: &[Target], files: &[PathBuf]) -> Result<(), String> {
    for (at, target) in targets.iter().enumerate() {
        let identifier = target.namespace.identifier();
        let twin =
            targets[..at].iter().find(|other| identifier.is_some() && other.namespace.identifier() == identifier);
        if let Some(twin) = twin {
            let [one, other] = [twin, target].map(|target| target.path(&target.namespace.name));
            return Err(format!("--verify: {one} and {other} are the same namespace; name it once"));
        }
    }
    let identities: Vec<_> = files.iter().map(|file| identity(file)).collect();
    for (at, identity) in identities.iter().enumerate() {
        if let Some(twin) = identities[..at].iter().position(|other| identity.is_some() && other == identity) {
            let [one, other] = [twin, at].map(|at| files[at].display());
            return Err(format!("--verify: {one} and {other} are the same file or device; name it once"));
        }
    }
    Ok(())
}

/// What two names of one file or device have in common.
pub fn identity(file: &Path) -> Option<(u64, u64)> {
    let found = file.metadata().ok()?;
    let is_device = found.file_type().is_block_device() || found.file_type().is_char_device();
    Some(if is_device { (u64::MAX, found.rdev()) } else { (found.dev(), found.ino()) })
}
