"""Attributes that an exported object cannot do without: no site's rules may drop them.

Without these of type 1 (PS3.3) a reader refuses the object, or takes its pixels, contours, samples or codes for
something else; or the export writes them itself. None tells of a person: of what the file says, a number, a listed word
or a code may stay, and UIDs and the patient's id are replaced by pseudonyms.
"""

MANDATORY = frozenset(
    # what the object is; what the export says of its own work
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID Modality SpecificCharacterSet ImageType "
    "PresentationIntentType ConversionType ReferencedSOPClassUID ReferencedSOPInstanceUID BurnedInAnnotation "
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
    "LongitudinalTemporalInformationModified "
    # a code is its three parts
    "CodeValue CodingSchemeDesignator CodeMeaning "
    # the pixels, and what their values mean
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated "
    "BitsStored HighBit PixelRepresentation PixelData PixelAspectRatio RedPaletteColorLookupTableDescriptor "
    "GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData "
    "GreenPaletteColorLookupTableData BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData "
    "SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData "
    "RescaleSlope RescaleIntercept RescaleType "
    "ModalityLUTSequence ModalityLUTType VOILUTSequence LUTDescriptor LUTData PixelIntensityRelationship "
    "PixelIntensityRelationshipSign PresentationLUTShape LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod Units "
    # where they lie
    "PixelSpacing ImagePositionPatient ImageOrientationPatient FrameIncrementPointer FrameTime FrameTimeVector "
    "RegionSpatialFormat RegionDataType RegionFlags RegionLocationMinX0 RegionLocationMinY0 RegionLocationMaxX1 "
    "RegionLocationMaxY1 PhysicalUnitsXDirection PhysicalUnitsYDirection PhysicalDeltaX PhysicalDeltaY "
    # enhanced objects
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence FrameContentSequence FrameVOILUTSequence "
    "PixelValueTransformationSequence PixelMeasuresSequence PlanePositionSequence PlaneOrientationSequence "
    "DimensionOrganizationSequence DimensionIndexSequence DimensionIndexPointer FunctionalGroupPointer "
    "DimensionIndexValues FrameType PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique "
    "CTImageFrameTypeSequence MRImageFrameTypeSequence PETFrameTypeSequence DerivationCodeSequence "
    "PurposeOfReferenceCodeSequence "
    # segmentations, registrations, presentation states
    "SegmentationType SegmentationFractionalType MaximumFractionalValue SegmentSequence SegmentNumber "
    "SegmentAlgorithmType SegmentedPropertyCategoryCodeSequence SegmentedPropertyTypeCodeSequence "
    "SegmentIdentificationSequence ReferencedSegmentNumber ReferencedSeriesSequence ReferencedInstanceSequence "
    "RegistrationSequence MatrixRegistrationSequence MatrixSequence FrameOfReferenceTransformationMatrix "
    "FrameOfReferenceTransformationMatrixType DisplayedAreaSelectionSequence DisplayedAreaTopLeftHandCorner "
    "DisplayedAreaBottomRightHandCorner PresentationSizeMode "
    # radiotherapy
    "DoseUnits DoseType DoseSummationType DoseGridScaling GridFrameOffsetVector StructureSetROISequence ROINumber "
    "ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence ContourImageSequence "
    "ROIContourSequence ContourSequence ContourGeometricType NumberOfContourPoints ContourData "
    "RTROIObservationsSequence ObservationNumber ReferencedROINumber FractionGroupSequence FractionGroupNumber "
    "NumberOfBeams NumberOfBrachyApplicationSetups BeamSequence IonBeamSequence BeamNumber BeamType RadiationType "
    "BeamLimitingDeviceSequence RTBeamLimitingDeviceType NumberOfLeafJawPairs LeafPositionBoundaries "
    "NumberOfControlPoints ControlPointSequence IonControlPointSequence ControlPointIndex RTPlanGeometry RTImagePlane "
    # waveforms
    "WaveformSequence WaveformOriginality NumberOfWaveformChannels NumberOfWaveformSamples SamplingFrequency "
    "ChannelDefinitionSequence ChannelSourceSequence WaveformBitsStored WaveformBitsAllocated "
    "WaveformSampleInterpretation WaveformData ChannelSensitivity ChannelSensitivityUnitsSequence "
    "ChannelSensitivityCorrectionFactor ChannelBaseline".split()
)

EMPTIED = frozenset(
    "ContentDescription "  # Content Identification Macro, PS3.3 Table 10-12
    "PositionReferenceIndicator AcquisitionContextSequence "  # C.7.4.1, C.7.6.14
    "OperatorsName ROIName ROIInterpreter TreatmentMachineName ReviewerName".split()  # C.8.8.1, .5, .8, .14, .16
)
"""Of type 2 or 2C: where the original has one, the export has it empty."""
DATED = frozenset({"PresentationCreationDate", "PresentationCreationTime"})
"""Of type 1 (PS3.3 C.11.10): moved with the patient's dates, or a dummy where no date may stay."""
PAIRS = {"TrackingUID": "TrackingID", "InStackPositionNumber": "StackID"}
"""Of type 1C (PS3.3 C.8.20.2, C.7.6.16.2.2): without the second, which may be free text, the first goes too."""
