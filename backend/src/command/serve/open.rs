//! Opening what a disk lies on, as the options of serving ask.

use std::path::Path;

use super::error::ServeError;
use super::options::ServeArgs;
use crate::command::protect::refuse_other_data;
use crate::command::storage::StorageError;
use crate::device::{BlockDevice, BlockIntegrity, KernelPiDevice, Namespace, SidecarDevice};
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

fn access(args: &ServeArgs) -> Access {
    match args {
        // readers do not exclude each other
        ServeArgs { read_only: true, .. } => Access::Read,
        ServeArgs { incoming: true, .. } => Access::Preview,
        _ => Access::ReadWrite,
    }
}

pub(super) fn open_image(args: &ServeArgs) -> Result<Image, ServeError> {
    let mut image = Image::open(&args.blk_file, access(args), DirectIo::WherePossible)?;
    if image.size() == 0 || !image.size().is_multiple_of(args.block_size.into()) {
        let (path, size, block_size) = (args.blk_file.clone(), image.size(), args.block_size);
        return Err(ServeError::BlockSize { path, size, block_size });
    }
    if !image.size().is_multiple_of(image.alignment().offset.into()) {
        // direct I/O could not reach the end of the image
        drop(image);
        image = Image::open(&args.blk_file, access(args), DirectIo::Never)?;
    }
    // as each queue will
    let opened_again = image.open_for_sync().map(drop).and_then(|()| match access(args) {
        Access::ReadWrite => image.mark_losses(),
        Access::Inspect | Access::Preview | Access::Read => Ok(()),
    });
    opened_again.map_err(|source| ServeError::Setup {
        action: "open the image once more, by /proc/self/fd",
        source,
    })?;
    if !image.is_direct() {
        tracing::info!(image = %args.blk_file.display(), "no direct I/O here: going through the page cache");
    }
    Ok(image)
}

pub(super) fn open_protected(
    args: &ServeArgs,
    image: Image,
    sidecar: SidecarFile,
    path: &Path,
) -> Result<SidecarDevice, ServeError> {
    let cache_bytes = usize::try_from(args.tuple_cache).unwrap_or(usize::MAX);
    let opened = if args.incoming {
        // what it is, and no more: its owner changes it meanwhile
        Ok(SidecarDevice::preview(image, sidecar, cache_bytes))
    } else if args.read_only {
        SidecarDevice::view(image, sidecar, cache_bytes)
    } else {
        SidecarDevice::open(image, sidecar, args.intent.into(), cache_bytes)
    };
    opened.map_err(|error| load_error("open", path)(error).into())
}

pub(super) fn open_sidecar(args: &ServeArgs, path: &Path, image: &Image) -> Result<SidecarFile, ServeError> {
    let access = if args.incoming { Access::Inspect } else { access(args) };
    let sidecar = SidecarFile::open(path, image, access)?;
    // an image of which only a part is covered is served as far as that
    let (size, block_size) = (sidecar.layout().image_size(), args.block_size);
    if !size.is_multiple_of(block_size.into()) {
        return Err(ServeError::BlockSize { path: args.blk_file.clone(), size, block_size });
    }
    Ok(sidecar)
}

pub(super) fn open_kernel_pi(
    args: &ServeArgs,
    image: Image,
    integrity: &BlockIntegrity,
) -> Result<KernelPiDevice, ServeError> {
    let opened = KernelPiDevice::new(image, integrity);
    own(args, opened.map_err(|reason| StorageError::Access { path: args.blk_file.clone(), reason })?)
}

/// A device that holds data of no other owner. Its current owner's changes are no sign of that.
pub(super) fn own<B: BlockDevice>(args: &ServeArgs, device: B) -> Result<B, ServeError> {
    if args.incoming { Ok(device) } else { Ok(refuse_other_data(device, &args.blk_file)?) }
}

pub(super) fn open_namespace(args: &ServeArgs) -> Result<Namespace, ServeError> {
    let mut namespace = Namespace::open(&args.blk_file, access(args))?;
    if access(args) == Access::ReadWrite {
        namespace.mark_losses().map_err(|source| ServeError::Setup {
            action: "open the namespace once more, by /proc/self/fd",
            source,
        })?;
    }
    Ok(namespace)
}
