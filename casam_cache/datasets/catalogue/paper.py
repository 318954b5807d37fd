"""The paper's nine tasks and its five unseen sets, in its order."""

from __future__ import annotations

from dataclasses import replace

from casam_cache.datasets.catalogue.entry import Entry

_KPIS_LAYOUT = """\
Task1_patch_level/            of the training, validation and testing data; any of them, side by side
  train|validation|test/      the folder of the training data may be named data
    56Nx/
      12_116/                 a slide
        img/56Nx_12_116_4_4096_0_img.jpg
        mask/56Nx_12_116_4_4096_0_mask.jpg
    DN/ NEP25/ normal/        as 56Nx"""

_KPIS = Entry(
    name="",
    title="",
    modality="histopathology, PAS, mouse kidney",
    classes=((1, "glomerulus"),),
    images="patches of 2048 x 2048 of whole slides of four classes: 56Nx, DN, NEP25, normal",
    licence="see the site",
    url="https://www.synapse.org/Synapse:syn54077668",
    access="Synapse account, and the terms of the KPIs challenge (https://sites.google.com/view/kpis2024)",
    reference="Tang et al. 2024, HoloHisto, arXiv:2407.03307; Deng et al. 2025, KPIs 2024, arXiv:2502.07288",
    layout=_KPIS_LAYOUT,
    group="slide (the folder of the patches)",
    split="official, by the folders train, validation and test; drawn by slide where only one is there",
    reader="kpis",
    role="task",
)

_BUSI_LAYOUT = """\
Dataset_BUSI_with_GT/
  benign/
    benign (1).png
    benign (1)_mask.png
    benign (4)_mask_1.png     a second lesion of one image
  malignant/                  as benign
  normal/                     masks are empty"""

_BUSI = Entry(
    name="",
    title="",
    classes=(),
    modality="ultrasound, breast",
    images="780 images of 600 women: 437 benign, 210 malignant, 133 normal",
    licence="see the site; the publication is CC BY 4.0",
    url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
    access="free download",
    reference="Al-Dhabyani et al. 2020, Data in Brief 28:104863",
    layout=_BUSI_LAYOUT,
    group="image: the files do not tell which images are of one woman",
    split="none; drawn here",
    reader="folder",
    role="unseen",
    notes=(
        "several masks of one image are several lesions; --masks binary unites them",
        "it is known to hold near duplicates: read what casam data check says about them",
    ),
)

_MSD = Entry(
    name="",
    title="",
    modality="",
    classes=(),
    images="",
    layout="",
    licence="CC BY-SA 4.0",
    url="http://medicaldecathlon.com",
    access="free download",
    reference="Antonelli et al. 2022, Nature Communications 13:4128",
    group="patient (a volume)",
    split="drawn here by patient: the masks of imagesTs are not public",
    reader="msd",
    role="task",
)

TASKS: tuple[Entry, ...] = (
    Entry(
        name="ACDC",
        title="Automated Cardiac Diagnosis Challenge",
        modality="MR, cardiac cine, short axis",
        classes=((1, "right ventricle"), (2, "myocardium"), (3, "left ventricle")),
        images="150 patients, of each the end-diastolic and the end-systolic volume (100 training, 50 testing)",
        licence="CC BY-NC-SA 4.0 as far as known; see the site",
        url="https://www.creatis.insa-lyon.fr/Challenge/acdc/",
        access="download from https://humanheart-project.creatis.insa-lyon.fr/database; see there for its terms",
        reference="Bernard et al. 2018, IEEE TMI 37(11):2514-2525",
        layout="""\
training/                     and testing/, or the patients directly
  patient001/
    Info.cfg                  names the frames ED and ES
    patient001_4d.nii.gz      the whole cycle; not read, since it has no masks
    patient001_frame01.nii.gz
    patient001_frame01_gt.nii.gz
    patient001_frame12.nii.gz
    patient001_frame12_gt.nii.gz""",
        group="patient",
        split="official, by the folders training and testing; drawn by patient where only one is there",
        reader="acdc",
        role="task",
        train=1632,
        test=177,
        paper="MR; left ventricle, myocardium, right ventricle; it cites IMIS-Bench for it",
        notes=(
            "the paper cites IMIS-Bench, whose export of slices may count others than the challenge's volumes have",
        ),
    ),
    Entry(
        name="EBHI-SEG",
        title="Enteroscope Biopsy Histopathological H&E Image Dataset for Image Segmentation",
        modality="histopathology, H&E, colorectal biopsy",
        classes=((1, "lesion"),),
        images="2,228 images of 224 x 224 with masks, in six classes of tissue",
        licence="CC BY 4.0",
        url="https://figshare.com/articles/dataset/EBHI-SEG/21540159",
        access="free download",
        reference="Shi et al. 2023, Frontiers in Medicine 10:1114673",
        layout="""\
EBHI-SEG/
  Adenocarcinoma/
    image/GT2001837-1-400-001.png
    label/GT2001837-1-400-001.png
  High-grade IN/ Low-grade IN/ Normal/ Polyp/ Serrated adenoma/    as Adenocarcinoma""",
        group="biopsy (the first part of a name, e.g. GT2001837)",
        split="none; drawn here by biopsy",
        reader="ebhi-seg",
        role="task",
        train=1701,
        test=487,
        paper="pathological imaging; colon cancer (affected areas)",
        aliases=("EBHI",),
        notes=("the six classes are of the image, not of its mask, so that the masks are binary",),
    ),
    replace(
        _KPIS,
        name="56Nx",
        title="KPIs 2024, mice after 5/6 nephrectomy",
        folders=("56nx",),
        train=558,
        test=463,
        paper="pathological imaging; glomerulus",
        aliases=("KPIs_56Nx",),
    ),
    replace(
        _KPIS,
        name="DN",
        title="KPIs 2024, mice with diabetic nephropathy",
        folders=("dn",),
        train=724,
        test=391,
        paper="pathological imaging; glomerulus",
        aliases=("KPIs_DN",),
    ),
    Entry(
        name="Polyp",
        title="Kvasir-SEG",
        modality="endoscopy, colon (RGB)",
        classes=((1, "polyp"),),
        images="1,000 images with masks",
        licence="for research and education; see the site",
        url="https://datasets.simula.no/kvasir-seg/",
        access="free download",
        reference="Jha et al. 2020, MultiMedia Modeling, LNCS 11962:451-462",
        layout="""\
Kvasir-SEG/
  images/cju0qkwl35piu0993l0dewei2.jpg
  masks/cju0qkwl35piu0993l0dewei2.jpg
  kavsir_bboxes.json          not read""",
        group="image: the files do not tell the patient",
        split="none that all use; drawn here",
        reader="folder",
        role="task",
        train=804,
        test=196,
        paper="RGB imaging; it calls the target 'the spleen', but cites Kvasir-SEG, a set of polyps",
        aliases=("Kvasir-SEG", "Kvasir", "Ployp"),
        notes=("masks are JPEG files with soft edges",),
    ),
    replace(
        _MSD,
        name="MSD_Prostate",
        title="Medical Segmentation Decathlon, Task05_Prostate",
        modality="MR, prostate, T2 (and ADC)",
        classes=((1, "peripheral zone"), (2, "transition zone")),
        images="48 patients, of whom 32 with masks",
        layout="""\
Task05_Prostate/
  dataset.json
  imagesTr/prostate_00.nii.gz  two channels: 0 T2, 1 ADC
  labelsTr/prostate_00.nii.gz
  imagesTs/                    has no masks; not read""",
        folders=("task05_prostate",),
        train=419,
        test=53,
        paper="MR T2; peripheral zone and transition zone; it cites IMIS-Bench for it",
        aliases=("Prostate", "Task05_Prostate"),
        notes=("T2, the channel that the paper uses, is read; --channels 2 reads ADC",),
    ),
    replace(
        _MSD,
        name="MSD_Spleen",
        title="Medical Segmentation Decathlon, Task09_Spleen",
        modality="CT, abdomen",
        classes=((1, "spleen"),),
        images="61 patients, of whom 41 with masks",
        layout="""\
Task09_Spleen/
  dataset.json
  imagesTr/spleen_2.nii.gz
  labelsTr/spleen_2.nii.gz
  imagesTs/                    has no masks; not read""",
        folders=("task09_spleen",),
        train=876,
        test=146,
        paper="CT; spleen; it cites IMIS-Bench for it",
        aliases=("Spleen", "Task09_Spleen"),
    ),
    Entry(
        name="Promise12",
        title="Prostate MR Image Segmentation 2012",
        modality="MR, prostate, T2",
        classes=((1, "prostate"),),
        images="50 training volumes with masks",
        licence="see LICENSE.TXT of the download",
        url="https://promise12.grand-challenge.org",
        access="download from https://zenodo.org/records/8026660",
        reference="Litjens et al. 2014, Medical Image Analysis 18(2):359-373",
        layout="""\
training_data/                or the files directly, or parts named TrainingData_Part1 and so on
  Case00.mhd  Case00.raw
  Case00_segmentation.mhd  Case00_segmentation.raw""",
        group="case (a volume)",
        split="drawn here by case: volumes without a mask are not read",
        reader="promise12",
        role="task",
        train=712,
        test=66,
        paper="MR; prostate; it cites IMIS-Bench for it",
        aliases=("Promise",),
    ),
    Entry(
        name="STS-2D",
        title="STS-2D-Tooth, Semi-supervised Teeth Segmentation",
        modality="X-ray, panoramic dental",
        classes=((1, "teeth"),),
        images="4,000 images, of which 900 with masks (850 of adults, 50 of children)",
        licence="CC BY 4.0",
        url="https://zenodo.org/records/10597292",
        access="free download (about 32 GB together with STS-3D-Tooth)",
        reference="Wang et al. 2025, Scientific Data 12:117",
        layout="""\
SD-Tooth/STS-2D-Tooth/
  A-PXI/                      adults
    Labeled/Image/A_L_001.png
    Labeled/Mask/A_L_001.png
    Unlabeled/                has no masks; --unlabelled reads it too
  C-PXI/                      children; as A-PXI""",
        group="image",
        split="none; drawn here",
        reader="sts-2d",
        folders=("sts-2d-tooth",),
        role="task",
        train=1700,
        test=70,
        paper="X-ray; teeth",
        aliases=("STS", "STS-2D-Tooth"),
        notes=("the paper's 1,700 and 70 images are more than the 900 that have masks in this release",),
    ),
)

UNSEEN: tuple[Entry, ...] = (
    Entry(
        name="DDTI",
        title="Digital Database of Thyroid Ultrasound Images",
        modality="ultrasound, thyroid",
        classes=((1, "nodule"),),
        images="cases of one to several images, with nodules drawn as polygons",
        licence="see the site",
        url="http://cimalab.intec.co/applications/thyroid/",
        access="free download; see the site",
        reference="Pedraza et al. 2015, Proc. SPIE 9287:92870W",
        layout="""\
DDTI/
  1.xml                       a case: marks, each with the number of an image and polygons as JSON
  1_1.jpg
  2.xml  2_1.jpg  2_2.jpg""",
        group="case (the XML file)",
        split="none; drawn here by case",
        reader="ddti",
        role="unseen",
        notes=(
            "each polygon is a nodule; --masks binary unites those of an image",
            "some annotations of the distributed files break off: whole polygons are kept, with a line",
        ),
    ),
    replace(
        _BUSI,
        name="BUSI_benign",
        title="Breast Ultrasound Images, benign",
        classes=((1, "benign lesion"),),
        folders=("benign",),
        aliases=("benign",),
    ),
    replace(
        _BUSI,
        name="BUSI_malignant",
        title="Breast Ultrasound Images, malignant",
        classes=((1, "malignant lesion"),),
        folders=("malignant",),
        aliases=("malignant",),
    ),
    Entry(
        name="Brain_Tumor",
        title="brain tumor dataset (figshare)",
        modality="MR, brain, contrast-enhanced T1",
        classes=((1, "tumour"),),
        images="3,064 slices of 233 patients: 708 meningioma, 1,426 glioma, 930 pituitary tumour",
        licence="CC BY 4.0",
        url="https://figshare.com/articles/dataset/brain_tumor_dataset/1512427",
        access="free download",
        reference="Cheng 2017, doi:10.6084/m9.figshare.1512427",
        layout="""\
brainTumorDataPublic/         the files directly, or in the four folders they come in
  1.mat                       MATLAB v7.3: cjdata/image, tumorMask, label, PID
  2.mat
  cvind.mat                   folds; not read""",
        group="patient (PID)",
        split="none that all use; drawn here by patient",
        reader="figshare",
        role="unseen",
        paper="it gives the name only; that it is this set is taken from the name",
        aliases=("figshare", "figshare_brain_tumor"),
        notes=("--masks classes takes the kind of tumour: 1 meningioma, 2 glioma, 3 pituitary tumour",),
    ),
    Entry(
        name="CAMO",
        title="Camouflaged Objects",
        modality="photographs",
        classes=((1, "camouflaged object"),),
        images="1,250 images of camouflaged objects: 1,000 train, 250 test",
        licence="see the site",
        url="https://sites.google.com/view/ltnghia/research/camo",
        access="download from the site; see there for its terms",
        reference="Le et al. 2019, CVIU 184:45-56",
        layout="""\
CAMO-V.1.0-CVIU2019/
  Images/Train/camourflage_00001.jpg
  Images/Test/camourflage_00012.jpg
  GT/camourflage_00001.png    of both""",
        group="image",
        split="official, by the folders Train and Test",
        reader="camo",
        role="unseen",
    ),
)
