//! A run that writes asks first: what is to be written to is looked at, and where something of somebody's is found, or nothing can be
//! seen, the run is refused. `--overwrite NAME` is how to insist.

use std::{collections::BTreeSet, path::PathBuf, thread};

use doorbell_host::Namespace;
use doorbell_inspect::{EDGE, read_ends, signatures};
use doorbell_load::{RunOptions, Target};

use super::options::Options;

/// What was found where, each a sentence that goes on after "it".
type Finding<'a> = (&'a str, Vec<String>);

/// Looks at all that the run would write to: namespaces, and files and devices of the kernel.
///
/// # Errors
/// What was found and how to insist; a name of `--overwrite` that nothing here has.
pub fn ask(targets: &[Target], files: &[PathBuf], options: &Options, run: &RunOptions) -> Result<(), String> {
    if !run.selection.changes(run.pattern.read_percent) {
        return Ok(());
    }
    // The embedded target was made a moment ago.
    let targets = if options.embedded.is_some() { &[] } else { targets };
    let paths: Vec<String> = targets.iter().map(|target| target.path(&target.namespace.name)).collect();
    let files: Vec<(String, &PathBuf)> = files.iter().map(|file| (file.display().to_string(), file)).collect();
    let mut unknown: BTreeSet<&str> = options.overwrite.iter().map(String::as_str).collect();
    if options.embedded.is_some() && files.is_empty() {
        unknown.clear();
    }
    let mut to_look_at: Vec<Vec<(&str, &Target)>> = Vec::new();
    for (target, path) in targets.iter().zip(&paths) {
        let named = [path, &target.namespace.name].map(|name| options.overwrite.contains(name));
        unknown.remove(path.as_str());
        unknown.remove(target.namespace.name.as_str());
        if named.contains(&true) || !target.is_tested(run) {
            continue;
        }
        match to_look_at.iter_mut().find(|group| group[0].1.controller.is(&target.controller)) {
            Some(group) => group.push((path, target)),
            None => to_look_at.push(vec![(path, target)]),
        }
    }
    unknown.retain(|name| files.iter().all(|(file, _)| file != name));
    if let Some(name) = unknown.first() {
        let names: Vec<&str> = paths.iter().chain(files.iter().map(|(name, _)| name)).map(String::as_str).collect();
        let names = names.join("; ");
        return Err(format!("--overwrite \"{name}\": nothing that is tested has this name; there are: {names}"));
    }
    let mut found: Vec<Finding<'_>> = thread::scope(|scope| {
        let looks: Vec<_> = to_look_at.iter().map(|group| (group, scope.spawn(|| look(group)))).collect();
        let seen = looks.into_iter().flat_map(|(group, look)| match look.join() {
            Ok(seen) => seen,
            Err(_) => group.iter().map(|(path, _)| unseen(path, "the look failed")).collect(),
        });
        seen.collect()
    });
    for (name, file) in files.iter().filter(|(name, _)| !options.overwrite.contains(name)) {
        match doorbell_inspect::path(file) {
            Ok(findings) if findings.is_empty() => {}
            Ok(findings) => found.push((name, findings)),
            Err(why) => found.push(unseen(name, &why)),
        }
    }
    refuse(&found)
}

fn unseen<'a>(name: &'a str, why: &str) -> Finding<'a> {
    (name, vec![format!("could not be looked at: {why}")])
}

/// Looks at namespaces of one controller; what is empty is not listed.
fn look<'a>(group: &[(&'a str, &Target)]) -> Vec<Finding<'a>> {
    let mut reader = group[0].1.controller.reader();
    let mut one = |namespace: &Namespace| match &mut reader {
        Err(why) => Err(why.to_string()),
        Ok(reader) => {
            let mut read = |offset, bytes| reader.read(namespace, offset, bytes);
            // What is known of zoned namespaces stands at the start, and the last zone may end before it is read.
            let size = if namespace.zoned.is_some() { namespace.size().min(EDGE) } else { namespace.size() };
            read_ends(size, &mut read).map(|ends| signatures(&ends)).map_err(|why| why.to_string())
        }
    };
    let found = |(path, target): &(&'a str, &Target)| match one(&target.namespace) {
        Ok(found) if found.is_empty() => None,
        Ok(found) => Some((*path, found.into_iter().map(|what| format!("holds {what}")).collect())),
        Err(why) => Some(unseen(path, &why)),
    };
    group.iter().filter_map(found).collect()
}

fn refuse(found: &[Finding<'_>]) -> Result<(), String> {
    if found.is_empty() {
        return Ok(());
    }
    let lines = found.iter().map(|(name, findings)| format!("  {name}: it {}", findings.join("; it ")));
    let insist = found.iter().map(|(name, _)| format!("--overwrite {}", quoted(name)));
    let (lines, insist) = (lines.collect::<Vec<_>>().join("\n"), insist.collect::<Vec<_>>().join(" "));
    Err(format!(
        "nothing was written, as this run would destroy what is there:\n{lines}\nTo write all the same, add {insist}"
    ))
}

/// A word as a shell takes it.
fn quoted(name: &str) -> String {
    format!("'{}'", name.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_where_and_how_to_insist() {
        assert_eq!(refuse(&[]), Ok(()));
        let found =
            [("/dev/it's", vec!["is mounted on /".to_string(), "holds a thing".into()]), ("b", vec!["holds x".into()])];
        let why = refuse(&found).unwrap_err();
        let (_, rest) = why.split_once('\n').unwrap();
        assert_eq!(
            rest,
            "  /dev/it's: it is mounted on /; it holds a thing\n  b: it holds x\n\
             To write all the same, add --overwrite '/dev/it'\\''s' --overwrite 'b'"
        );
    }
}
