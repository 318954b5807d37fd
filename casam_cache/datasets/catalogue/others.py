"""Further sets that people ask for."""

from __future__ import annotations

from casam_cache.datasets.catalogue.entry import Entry

_ABDOMEN = (
    "spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta",
    "inferior vena cava",
)  # fmt: skip


def _numbered(*names: str) -> tuple[tuple[int, str], ...]:
    return tuple(enumerate(names, 1))


OTHERS: tuple[Entry, ...] = (
    Entry(
        name="ISIC",
        title="ISIC challenge, lesion segmentation (2016, 2017, 2018)",
        modality="dermoscopy (RGB)",
        classes=((1, "lesion"),),
        images="2018: 2,594 training, 100 validation, 1,000 test",
        licence="2016 and 2017 CC0, 2018 CC BY-NC 4.0; see the site",
        url="https://challenge.isic-archive.com/data/",
        access="free download",
        reference="Codella et al. 2019, arXiv:1902.03368; Tschandl et al. 2018, Scientific Data 5:180161",
        layout="""\
ISIC2018/                     the folders that the archives unpack to, side by side
  ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg
  ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png
  ..._Validation_Input/ ..._Validation_GroundTruth/ ..._Test_Input/ ..._Test_GroundTruth/""",
        group="image: the files do not tell the patient",
        split="official, by the folders Training, Validation and Test; drawn where only one is there",
        reader="isic",
        aliases=("ISIC2016", "ISIC2017", "ISIC2018"),
    ),
    Entry(
        name="DSB2018",
        title="2018 Data Science Bowl, nuclei (BBBC038)",
        modality="microscopy, fluorescence and bright field",
        classes=((1, "nucleus"),),
        images="670 images in stage1_train",
        licence="CC0",
        url="https://bbbc.broadinstitute.org/BBBC038",
        access="free download",
        reference="Caicedo et al. 2019, Nature Methods 16:1247-1253",
        layout="""\
stage1_train/
  00071198d059ba7f.../
    images/00071198d059ba7f....png
    masks/07a9bf1d7594af2763c86e93f05d22c4d5181353c6d3ab30a345b908ffe5aadc.png    one a nucleus""",
        group="image",
        split="none; drawn here",
        reader="folder-an-image",
        aliases=("BBBC038",),
    ),
    Entry(
        name="NuInsSeg",
        title="NuInsSeg, nuclei in H&E of 31 organs",
        modality="histopathology, H&E",
        classes=((1, "nucleus"),),
        images="665 patches of 31 human and mouse organs",
        licence="see the site",
        url="https://www.kaggle.com/datasets/ipateam/nuinsseg",
        access="Kaggle account",
        reference="Mahbod et al. 2024, Scientific Data 11:295",
        layout="""\
NuInsSeg/
  human bladder/
    tissue images/human_bladder_01.png
    label masks modify/human_bladder_01.tif    a number a nucleus
    ...                       other folders are not read""",
        group="image",
        split="none; drawn here",
        reader="nuinsseg",
    ),
    Entry(
        name="BTCV",
        title="Multi-Atlas Labeling Beyond the Cranial Vault, abdomen",
        modality="CT, abdomen",
        classes=_numbered(
            *_ABDOMEN, "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"
        ),
        images="30 training volumes with masks",
        licence="see the site",
        url="https://www.synapse.org/Synapse:syn3193805",
        access="Synapse account and registration for the challenge",
        reference="Landman et al. 2015, MICCAI Multi-Atlas Labeling Beyond the Cranial Vault",
        layout="""\
RawData/Training/
  img/img0001.nii.gz
  label/label0001.nii.gz""",
        group="patient (a volume)",
        split="drawn here by patient",
        reader="btcv",
        notes=(
            "IMIS-Bench's export of its slices (image/, label/, dataset.json) is read too, by --reader imis",
        ),
    ),
    Entry(
        name="AMOS",
        title="AMOS 2022, abdominal multi-organ segmentation",
        modality="CT and MR, abdomen",
        classes=_numbered(
            "spleen",
            "right kidney",
            "left kidney",
            "gallbladder",
            "oesophagus",
            "liver",
            "stomach",
            "aorta",
            "inferior vena cava",
            "pancreas",
            "right adrenal gland",
            "left adrenal gland",
            "duodenum",
            "bladder",
            "prostate or uterus",
        ),
        images="500 CT and 100 MR volumes, those of training and validation with masks",
        licence="see the site",
        url="https://amos22.grand-challenge.org",
        access="see the site",
        reference="Ji et al. 2022, arXiv:2206.08023",
        layout="""\
amos22/
  dataset.json
  imagesTr/amos_0001.nii.gz   imagesVa/
  labelsTr/amos_0001.nii.gz   labelsVa/
  imagesTs/                   has no masks; not read""",
        group="patient (a volume)",
        split="drawn here by patient over training and validation: the masks of test are not public",
        reader="amos",
    ),
    Entry(
        name="LIDC",
        title="LIDC-IDRI, lung nodules",
        modality="CT, thorax",
        classes=((1, "nodule"),),
        images="1,018 scans of 1,010 patients, each annotated by four radiologists",
        licence="CC BY 3.0",
        url="https://www.cancerimagingarchive.net/collection/lidc-idri/",
        access="free download with the NBIA Data Retriever",
        reference="Armato et al. 2011, Medical Physics 38(2):915-931",
        layout="""\
LIDC-IDRI/
  LIDC-IDRI-0001/
    01-01-2000-30178/3000566.000000-03192/
      1-001.dcm ...
      069.xml                 contours of four readers""",
        group="patient",
        split="none; drawn here by patient",
        reader="lidc",
        aliases=("LIDC-IDRI",),
        notes=(
            "a nodule is what at least half of the radiologists of a scan drew; of nodules below 3 mm only the middle "
            "is marked, and they are not read",
            "--masks components takes the nodules of a slice one by one",
        ),
    ),
)
