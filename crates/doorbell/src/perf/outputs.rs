//! The files that a run leaves. They are opened before it starts, so that a place that cannot be written is known then, and a file
//! takes its name only when it is complete: nobody ever reads half a result.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, PoisonError},
};

use doorbell_report::{csv, hlog};
use doorbell_result::{Document, document::Slice};

use super::{
    options::{Options, Sink},
    paths::identity,
};
use crate::{
    output::{self, leave_stdout, tell},
    scratch,
};

/// All files of a run.
#[derive(Default)]
pub struct Outputs {
    json: Option<Output>,
    csv: Option<Output>,
    hlog: Option<Output>,
    /// Slices come from whichever thread of the run watches. What cannot be written is not tried again, but told of at the end, too.
    ndjson: Mutex<Option<Result<Output, String>>>,
}

impl Outputs {
    /// Opens those that are asked for. Where one cannot be opened the others are there all the same.
    pub fn open(options: &Options) -> (Self, Result<(), String>) {
        if let Err(why) = check_places(options) {
            return (Self::default(), Err(why));
        }
        let mut failed = Ok(());
        let mut note = |opened: Option<Result<Output, String>>| match opened.transpose() {
            Ok(output) => output,
            Err(why) => {
                failed = Err(why);
                None
            }
        };
        let opened = Self {
            json: note(options.json.as_ref().map(|sink| Output::open("json", sink))),
            csv: note(options.csv.as_ref().map(|sink| Output::open("csv", sink))),
            hlog: note(options.hlog.as_ref().map(|sink| Output::open("hlog", sink))),
            ndjson: Mutex::new(note(options.ndjson.as_ref().map(|sink| Output::stream("ndjson", sink))).map(Ok)),
        };
        (opened, failed)
    }

    /// What a command line that cannot be run leaves.
    pub fn after_a_fault(json: Option<Sink>) -> Self {
        let open = |sink| Output::open("json", &sink).map_err(tell).ok();
        Self { json: json.and_then(open), ..Self::default() }
    }

    /// Writes a line of the time series. The first that cannot be written is the last that is tried.
    pub fn slice(&self, slice: &Slice) {
        let mut ndjson = self.ndjson.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(output)) = &mut *ndjson
            && let Err(error) = output.write(&slice.to_line())
        {
            let why = wrong(output.option, &output.place, &error);
            tell(&why);
            // A reader that has seen enough is no loss.
            *ndjson = (error.kind() != io::ErrorKind::BrokenPipe).then_some(Err(why));
        }
    }

    /// Writes the others from the complete document, to which it adds what could not be written, and returns that. The document
    /// itself comes last, so that it has all of it.
    pub fn complete(self, document: &mut Document) -> Vec<String> {
        let ndjson = self.ndjson.into_inner().unwrap_or_else(PoisonError::into_inner).and_then(Result::err);
        let csv = self.csv.and_then(|output| output.complete(&csv::text(&document.results)).err());
        let hlog = self.hlog.and_then(|output| output.complete(&hlog::text(document)).err());
        let mut failed: Vec<String> = ndjson.into_iter().chain(csv).chain(hlog).chain(output::lost()).collect();
        document.exit.good &= failed.is_empty();
        document.exit.errors.extend(failed.iter().cloned());
        failed.extend(self.json.and_then(|output| output.complete(&document.to_text()).err()));
        failed
    }
}

/// One of them.
pub struct Output {
    /// The option that asked for it.
    option: &'static str,
    writer: Box<dyn Write + Send + Sync>,
    place: String,
    /// The name that the file has while it is not complete, and the one it takes then.
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// Opens a sink that shows nothing before it is complete. Standard output is not used for anything else from then on.
    ///
    /// # Errors
    /// The option, the place and what the system said.
    pub fn open(option: &'static str, sink: &Sink) -> Result<Self, String> {
        let Sink::File(path) = sink else { return Self::stream(option, sink) };
        // A pipe or a device cannot be replaced; what a link leads to is, and the link stays.
        let there = fs::metadata(path).ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Self::stream(option, sink);
        }
        let path = whole(path);
        let place = path.display().to_string();
        let name = path.file_name().ok_or_else(|| format!("--{option}: {place} names no file"))?;
        let until = path.with_file_name(format!(".{}.{option}-{}", name.to_string_lossy(), process::id()));
        let file = File::create(&until).map_err(|why| wrong(option, &place, &why))?;
        scratch::add(until.clone());
        // It is read by whom what it replaces was read by.
        if let Some(Err(why)) = there.map(|there| file.set_permissions(there.permissions())) {
            return Err(wrong(option, &place, &why));
        }
        Ok(Self { option, writer: Box::new(BufWriter::new(file)), place, names: Some((until, path)) })
    }

    /// Opens a sink that shows at once what is written. Standard output is not used for anything else from then on.
    ///
    /// # Errors
    /// As [`Output::open`].
    fn stream(option: &'static str, sink: &Sink) -> Result<Self, String> {
        let Sink::File(path) = sink else {
            leave_stdout();
            return Ok(Self { option, writer: Box::new(io::stdout()), place: "standard output".into(), names: None });
        };
        let place = path.display().to_string();
        if fs::metadata(path).is_ok_and(|there| there.file_type().is_block_device()) {
            return Err(format!("--{option}: {place} is a block device, which is not overwritten; name a file"));
        }
        let file = File::create(path).map_err(|why| wrong(option, &place, &why))?;
        Ok(Self { option, writer: Box::new(file), place, names: None })
    }

    /// Writes a part.
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush())
    }

    /// Writes the whole and gives the file its name.
    ///
    /// # Errors
    /// As [`Output::open`].
    pub fn complete(mut self, text: &str) -> Result<(), String> {
        let mut write = || {
            self.write(text)?;
            let Some((until, path)) = self.names.take() else { return Ok(()) };
            scratch::forget(&until);
            fs::rename(until, path)
        };
        write().map_err(|why| wrong(self.option, &self.place, &why))
    }
}

impl Drop for Output {
    /// What did not become complete goes.
    fn drop(&mut self) {
        if let Some((until, _)) = &self.names {
            scratch::forget(until);
            let _ = fs::remove_file(until);
        }
    }
}

/// Refuses to write what is tested, or two files to one place.
fn check_places(options: &Options) -> Result<(), String> {
    let sinks = [("json", &options.json), ("csv", &options.csv), ("hlog", &options.hlog), ("ndjson", &options.ndjson)];
    let mut taken: Vec<(&str, PathBuf)> = Vec::new();
    for (option, sink) in sinks {
        let Some(Sink::File(path)) = sink else { continue };
        let place = path.display();
        if options.files.iter().any(|file| identity(file).is_some_and(|one| identity(path) == Some(one))) {
            return Err(format!(
                "--{option}: {place} is what is to be tested, which is not overwritten; name another file"
            ));
        }
        // Pipes and the like take what several have to say.
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            continue;
        }
        let path = whole(path);
        if let Some((other, _)) = taken.iter().find(|(_, known)| *known == path) {
            return Err(format!("--{option}: {place} is where --{other} goes; name another file"));
        }
        taken.push((option, path));
    }
    Ok(())
}

/// A path without links, whether there is a file yet or not.
fn whole(path: &Path) -> PathBuf {
    let leads_to = || fs::read_link(path).map(|to| path.with_file_name(to)).unwrap_or_else(|_| path.into());
    fs::canonicalize(path).unwrap_or_else(|_| {
        let path = leads_to();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (fs::canonicalize(parent), path.file_name()) {
            (Ok(parent), Some(name)) => parent.join(name),
            _ => path,
        }
    })
}

fn wrong(option: &str, place: &str, why: &io::Error) -> String {
    format!("--{option}: {place} cannot be written: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_what_it_was() {
        let folder = scratch::Folder::new().unwrap();
        let place = folder.path().join("results");
        fs::create_dir(&place).unwrap();
        let path = place.join("x.json");
        let sink = Sink::File(path.clone());
        let entries = || fs::read_dir(&place).unwrap().count();
        fs::write(&path, "before").unwrap();
        let mut output = Output::open("json", &sink).unwrap();
        output.write("half").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries()), ("before", 2));
        drop(output);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries()), ("before", 1));
        Output::open("json", &sink).unwrap().complete("whole").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries()), ("whole", 1));

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Output::open("json", &Sink::File(link.clone())).unwrap().complete("through").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "through");
        assert!(link.is_symlink());
        Output::open("csv", &Sink::File("/dev/null".into())).unwrap().complete("away").unwrap();

        let nowhere = Sink::File(folder.path().join("no/x"));
        for error in [Output::open("json", &nowhere).err(), Output::stream("ndjson", &nowhere).err()] {
            let error = error.unwrap();
            assert!(error.contains("/no/x cannot be written: No such file"), "{error}");
        }
    }
}
