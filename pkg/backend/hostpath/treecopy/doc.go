// Package treecopy copies directory trees with all that belongs to them: from
// a tree into a tar file, from a tar file into a tree, and from tree to tree.
//
// There is one walker and one set of metadata code. A source (a tree or an
// archive) makes batches of entries in the archive's order, a sink (a tree or
// an archive) puts them down:
//
//	WriteTar     treeSource -> tarSink
//	ReadTar      tarSource  -> treeSink
//	ReadForeign  tarSource  -> treeSink, of an archive that is not ours
//	CopyTree     treeSource -> treeSink
//
// # The archive
//
// The archive is an ordinary POSIX (PAX) tar file. What a ustar header cannot
// hold is in PAX records, with the keywords that GNU tar and archive/tar know:
// path, linkpath, size, uid, gid, mtime, atime, SCHILY.xattr.* and
// GNU.sparse.* (sparse format 1.0). One record is ours: SNAPDRIVER.type=socket
// marks an empty file that is a socket. Every name starts with "./", the first
// entry is "./", the tree's root.
//
// Where the filesystem can share blocks, the data of a large file is cloned
// into the archive and out of it. For that a PAX comment record pads the
// file's header, so that the data starts on a block boundary. archive/tar can
// write neither that padding nor sparse files, hence the encoder of our own;
// the decoder is there because it has to know where in the archive the data
// lies.
//
// GNU tar restores all of it with "--numeric-owner --xattrs
// --xattrs-include=*", but for sockets, which become empty files. With "--acls"
// it looks for POSIX ACLs in records of its own, and loses those that are here.
//
// # Invariants
//
//   - Nothing outside the two roots is read or written. Names are opened one
//     component at a time, below an open directory, without following a
//     symbolic link and without entering a mount. Type and content are those
//     of one descriptor, so that no device is ever opened and no fifo waits.
//   - A tree that changes meanwhile does not make a copy fail. A file that
//     vanished is left out; so is what a mount hides. A name that is given to a
//     file when as many were met as it had may become a file of its own.
//   - Where blocks can be shared, every file is whole at one instant. Two
//     files need not be of the same instant. Elsewhere a file that changes
//     while it is read is read again a few times, and then taken as it is.
//     What a program stores through a shared mapping (mmap) is the exception:
//     the kernel neither holds such stores off nor shows each as a change, so
//     that a copy may have a later one without an earlier one.
//   - In a tree deeper than chainWindow, the rest of a directory is left out if
//     meanwhile both one above it and one in it, on the way to where the copy
//     is, are moved elsewhere.
//   - A tree with a path to a directory longer than maxPath, 128 KiB, is refused
//     with backend.ErrPrecondition. The archive has all paths in full.
//   - So are a file with more than 16 MiB of extended attributes, or 64 KiB of
//     their names, and hard links that take more than 512 MiB to be kept in mind:
//     no tree of few megabytes takes all memory that there is.
//   - An archive without its end is an error, never a smaller tree.
//   - Nothing is synced: that is the caller's part.
//
// # What is kept
//
// Type, content, holes, owner, group, mode with setuid, setgid and sticky,
// access and modification times in nanoseconds, hard links, the targets of
// symbolic links, device numbers, and the extended attributes user.*,
// trusted.*, security.capability and POSIX ACLs. Not kept: change and birth
// times, inode flags (chattr), other security attributes (a label of
// SELinux or IMA belongs to the place, not to the data), blocks that were
// reserved but never written, and the sharing of blocks between files.
package treecopy
