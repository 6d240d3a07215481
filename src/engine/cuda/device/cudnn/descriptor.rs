//! One descriptor of cuDNN's backend API: a bag of named attributes that is set, finalized, then read or linked to by
//! others. The attribute's type follows from the Rust type, so the two cannot disagree. Names, types and counts are
//! those of cudnn_graph.h.

use std::ffi::CStr;
use std::ptr;

use cudarc::cudnn::sys;

use crate::engine::EngineError;

pub(super) use sys::cudnnBackendAttributeName_t as Attribute;
pub(super) use sys::cudnnBackendAttributeType_t as Type;
pub(super) use sys::cudnnBackendDescriptorType_t as Kind;

/// A value as cuDNN reads and writes it.
///
/// # Safety
/// `TYPE` names the C type with the layout of `Self`, and where [`Descriptor::read`] fills it, every bit pattern is
/// valid (so no enums: a later cuDNN may answer with a value that the bindings do not know).
pub(super) unsafe trait Value: Copy {
    const TYPE: Type;
}

/// cuDNN's pointer to a descriptor, for other descriptors to hold. What it points to must outlive them.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Link(sys::cudnnBackendDescriptor_t);

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Handle(pub(super) sys::cudnnHandle_t);

/// An address on the card.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Address(pub(super) u64);

/// A `cudnnBackendNumericalNote_t` that may be unknown here.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(super) struct Note(pub(super) u32);

/// A `cudnnBackendKnobType_t` that may be unknown here.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(super) struct Knob(pub(super) u32);

/// Implements [`Value`] for types whose layout is the named C type's.
macro_rules! values {
    ($($rust:ty => $name:ident),* $(,)?) => {$(
        // SAFETY: both are the same integer, float, bool, pointer, or enum of 32 bits; addresses are of 64 bits as
        // pointers are wherever CUDA runs.
        unsafe impl Value for $rust {
            const TYPE: Type = Type::$name;
        }
    )*};
}

values! {
    i64 => CUDNN_TYPE_INT64,
    f32 => CUDNN_TYPE_FLOAT,
    bool => CUDNN_TYPE_BOOLEAN,
    Link => CUDNN_TYPE_BACKEND_DESCRIPTOR,
    Handle => CUDNN_TYPE_HANDLE,
    Address => CUDNN_TYPE_VOID_PTR,
    Note => CUDNN_TYPE_NUMERICAL_NOTE,
    Knob => CUDNN_TYPE_KNOB_TYPE,
    sys::cudnnDataType_t => CUDNN_TYPE_DATA_TYPE,
    sys::cudnnConvolutionMode_t => CUDNN_TYPE_CONVOLUTION_MODE,
    sys::cudnnPointwiseMode_t => CUDNN_TYPE_POINTWISE_MODE,
    sys::cudnnBackendHeurMode_t => CUDNN_TYPE_HEUR_MODE,
}

#[derive(Debug)]
pub(super) struct Descriptor {
    raw: sys::cudnnBackendDescriptor_t,
    kind: Kind,
}

// SAFETY: a descriptor is plain memory of the library, bound to no thread; calls on one may not overlap, and it is not
// Sync.
unsafe impl Send for Descriptor {}

impl Descriptor {
    fn new(kind: Kind) -> Result<Self, EngineError> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is where the library puts the new descriptor.
        let status = unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut raw) };
        check(status, || format!("cudnnBackendCreateDescriptor({kind:?})"))?;
        Ok(Self { raw, kind })
    }

    /// Creates a descriptor, has `set` give it its attributes, and finalizes it.
    pub(super) fn build(
        kind: Kind,
        set: impl FnOnce(&Self) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
        let descriptor = Self::new(kind)?;
        set(&descriptor)?;
        // SAFETY: the descriptor is alive.
        let status = unsafe { sys::cudnnBackendFinalize(descriptor.raw) };
        check(status, || format!("cudnnBackendFinalize({kind:?})"))?;
        Ok(descriptor)
    }

    pub(super) fn link(&self) -> Link {
        Link(self.raw)
    }

    pub(super) fn raw(&self) -> sys::cudnnBackendDescriptor_t {
        self.raw
    }

    pub(super) fn set<T: Value>(&self, name: Attribute, values: &[T]) -> Result<(), EngineError> {
        let (count, from) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: the descriptor is alive, and `from` points to `count` values of the type told, which are copied.
        let status = unsafe { sys::cudnnBackendSetAttribute(self.raw, name, T::TYPE, count, from) };
        check(status, || {
            format!(
                "cudnnBackendSetAttribute({:?}, {name:?}, {count})",
                self.kind
            )
        })
    }

    /// Up to `most` values of an attribute.
    pub(super) fn read<T: Value + Default>(
        &self,
        name: Attribute,
        most: usize,
    ) -> Result<Vec<T>, EngineError> {
        let mut values = vec![T::default(); most];
        // SAFETY: `values` has room for `most` values of the type told, of which every bit pattern is valid.
        let found = unsafe { self.fill(name, T::TYPE, most, values.as_mut_ptr().cast()) }?;
        values.truncate(found);
        Ok(values)
    }

    /// The one value of an attribute.
    pub(super) fn read_one<T: Value + Default>(&self, name: Attribute) -> Result<T, EngineError> {
        let values = self.read(name, 1)?;
        values.first().copied().ok_or_else(|| {
            EngineError::Device(format!("cuDNN gave no {name:?} of {:?}", self.kind))
        })
    }

    /// How many descriptors an attribute lists.
    pub(super) fn count(&self, name: Attribute) -> Result<usize, EngineError> {
        // SAFETY: nothing is written where no values are asked for.
        unsafe {
            self.fill(
                name,
                Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
                0,
                ptr::null_mut(),
            )
        }
    }

    /// Up to `most` descriptors of an attribute; they are read into descriptors that the caller makes.
    pub(super) fn children(
        &self,
        name: Attribute,
        kind: Kind,
        most: usize,
    ) -> Result<Vec<Self>, EngineError> {
        let children: Result<Vec<Self>, _> = (0..most).map(|_| Self::new(kind)).collect();
        let mut children = children?;
        let mut raw: Vec<_> = children.iter().map(Self::raw).collect();
        let into = raw.as_mut_ptr().cast();
        // SAFETY: `raw` holds `most` live descriptors, which the library fills.
        let found = unsafe { self.fill(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, most, into) }?;
        children.truncate(found);
        Ok(children)
    }

    /// Reads an attribute; returns how many of its values are there, at most `most` unless `most` is 0.
    ///
    /// # Safety
    /// `into` has room for `most` values of type `of`; for descriptors it holds live ones.
    unsafe fn fill(
        &self,
        name: Attribute,
        of: Type,
        most: usize,
        into: *mut std::ffi::c_void,
    ) -> Result<usize, EngineError> {
        let mut found = 0;
        // SAFETY: the descriptor is alive and `into` as the caller promises.
        let status = unsafe {
            sys::cudnnBackendGetAttribute(self.raw, name, of, most as i64, &raw mut found, into)
        };
        check(status, || {
            format!(
                "cudnnBackendGetAttribute({:?}, {name:?}, {most})",
                self.kind
            )
        })?;
        Ok(usize::try_from(found).unwrap_or(0))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. A failure could only be told, and there is nobody to tell.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.raw) };
    }
}

/// Turns a failure into an error with the call, the status, and what cuDNN has to say.
pub(super) fn check(
    status: sys::cudnnStatus_t,
    call: impl FnOnce() -> String,
) -> Result<(), EngineError> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut text = [0_u8; 2048];
    // SAFETY: at most `text.len()` bytes are written, the last of them zero.
    unsafe { sys::cudnnGetLastErrorString(text.as_mut_ptr().cast(), text.len()) };
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    let text = text.to_string_lossy();
    let reason = match text.trim() {
        "" => "it gives no reason",
        reason => reason,
    };
    let call = call();
    Err(EngineError::Device(format!(
        "{call} failed with {status:?}: {reason}"
    )))
}
