//! The socket where clients come.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{SOCKET_NAME, socket};

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves a device there.
    #[error("{} is in use: another process serves a device there; end it or take another directory", .0.display())]
    InUse(PathBuf),
    /// Something is there that is no socket.
    #[error("{} is there and is not a socket; remove it or take another directory", .0.display())]
    NotASocket(PathBuf),
    /// The system reported an error.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        error: io::Error,
    },
}

/// A socket [`SOCKET_NAME`] in a directory; dropping it removes the socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and number of the socket's inode: by then another's may be there.
    inode: (u64, u64),
}

impl Listener {
    /// Listens in `directory`, which is made for this user alone if it is not there. A socket that nobody listens at any more is
    /// replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(directory: &Path) -> Result<Self, BindError> {
        let path = directory.join(SOCKET_NAME);
        let fail = |what, path: &Path| {
            let path = path.to_path_buf();
            move |error: io::Error| BindError::Io { what, path, error }
        };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(fail("make the directory", directory)(error));
            }
            _ => {}
        }
        // Two processes that both find a stale socket must not remove each other's.
        let lock = fs::File::open(directory).map_err(fail("open", directory))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(BindError::InUse(path)),
            other => other.map_err(io::Error::from).map_err(fail("lock", directory))?,
        }
        match fs::symlink_metadata(&path) {
            Ok(there) if !there.file_type().is_socket() => return Err(BindError::NotASocket(path)),
            Ok(_) => match socket::connect(&path) {
                Ok(_) | Err(Errno::AGAIN) => return Err(BindError::InUse(path)),
                Err(Errno::CONNREFUSED) => {
                    fs::remove_file(&path).map_err(fail("remove the old socket", &path))?;
                }
                Err(error) => return Err(fail("tell whether anybody listens at", &path)(error.into())),
            },
            Err(_) => {}
        }
        let socket = UnixListener::bind(&path).map_err(fail("listen at", &path))?;
        socket.set_nonblocking(true).map_err(fail("listen at", &path))?;
        let there = fs::symlink_metadata(&path).map_err(fail("look at", &path))?;
        Ok(Self { socket, path, inode: (there.dev(), there.ino()) })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next client, if one is waiting. Its socket closed, it knows that the device is taken.
    ///
    /// # Errors
    /// What the system answered.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
